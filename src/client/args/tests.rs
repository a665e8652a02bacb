//! What command lines mean.

use clap::{CommandFactory, Parser, error::ErrorKind};

use super::*;

/// As `main.rs` has them.
#[derive(Debug, Parser)]
#[command(name = "flotilla", version, propagate_version = true)]
enum Cli {
    Pub(Box<PubArgs>),
    Sub(Box<SubArgs>),
}

fn publish(line: &str) -> PubArgs {
    match Cli::try_parse_from(line.split(' ')) {
        Ok(Cli::Pub(args)) => *args,
        other => panic!("{line}: {other:?}"),
    }
}

fn subscribe(line: &str) -> SubArgs {
    match Cli::try_parse_from(line.split(' ')) {
        Ok(Cli::Sub(args)) => *args,
        other => panic!("{line}: {other:?}"),
    }
}

fn check_refused(line: &str, kind: ErrorKind) {
    assert_eq!(Cli::try_parse_from(line.split(' ')).expect_err(line).kind(), kind, "{line}");
}

#[test]
fn the_definitions_hold_together() {
    Cli::command().debug_assert();
}

#[test]
fn letters_are_those_of_mosquitto() {
    let line =
        "flotilla pub -h ::1 -p 1884 -t a/b -m -5 -q 2 -r -i me -u name -P -secret -V 311 -k 9 -W 0.5 -d";
    let args = publish(line);
    assert_eq!((args.topic.as_str(), args.message.as_deref()), ("a/b", Some("-5".as_ref())));
    assert_eq!((args.qos, args.retain), (QoS::ExactlyOnce, true));
    let connection = args.connection;
    assert_eq!((connection.host.as_str(), connection.port, connection.keepalive), ("::1", 1884, 9));
    assert_eq!((connection.id.as_deref(), connection.username.as_deref()), (Some("me"), Some("name")));
    assert_eq!(connection.password.as_deref(), Some("-secret".as_ref()));
    assert_eq!(connection.protocol_version, ProtocolVersion::V311);
    assert_eq!(connection.timeout, Some(Duration::from_millis(500)));

    let args = subscribe("flotilla sub -t a -t b/# -q 1 -C 3 -v -R -N -x never -V mqttv5");
    assert_eq!(args.topics, ["a", "b/#"]);
    assert_eq!((args.qos, args.count), (QoS::AtLeastOnce, Some(3)));
    assert!(args.output.verbose && args.output.skip_retained && args.output.no_newline);
    assert_eq!(args.connection.session_expiry, Some(u32::MAX));
    assert_eq!(subscribe("flotilla sub -t a -c 3").count, Some(3));
}

#[test]
fn without_options_it_is_mqtt_5_on_loopback() {
    let args = subscribe("flotilla sub -t a");
    assert_eq!((args.connection.host.as_str(), args.connection.port), ("127.0.0.1", 1883));
    assert_eq!(args.connection.protocol_version, ProtocolVersion::V5);
    assert_eq!((args.qos, args.count), (QoS::AtMostOnce, None));
    assert!(!args.connection.no_clean_start && !args.connection.debug);
}

#[test]
fn properties_are_parsed() {
    let line = "flotilla pub -t a -n --user-property k=v=w --user-property k= --content-type t --response-topic r \
                --correlation-data -c --message-expiry 7 --payload-format utf8 --topic-alias 3 --receive-maximum 2";
    let args = publish(&line.split_whitespace().collect::<Vec<_>>().join(" "));
    let pairs = [("k".to_owned(), "v=w".to_owned()), ("k".to_owned(), String::new())];
    assert_eq!(args.properties.user_properties, pairs);
    assert_eq!(args.properties.topic_alias, NonZeroU16::new(3));
    assert_eq!(args.properties.message_expiry, Some(7));
    assert_eq!(args.connection.receive_maximum, NonZeroU16::new(2));
    let args = subscribe("flotilla sub -t a --no-local --retain-handling new --subscription-id 268435455");
    assert!(args.options.no_local);
    assert_eq!(args.options.retain_handling, RetainHandling::SendIfNew);
    assert_eq!(args.options.subscription_id, NonZeroU32::new(268_435_455));
}

#[test]
fn nonsense_is_refused() {
    check_refused("flotilla pub -t a", ErrorKind::MissingRequiredArgument);
    check_refused("flotilla pub -m a", ErrorKind::MissingRequiredArgument);
    check_refused("flotilla sub", ErrorKind::MissingRequiredArgument);
    check_refused("flotilla pub -t a -m x -n", ErrorKind::ArgumentConflict);
    check_refused("flotilla pub -t a -l --repeat 2", ErrorKind::ArgumentConflict);
    check_refused("flotilla pub -t a -n -q 3", ErrorKind::ValueValidation);
    check_refused("flotilla pub -t a -n -V 4", ErrorKind::ValueValidation);
    check_refused("flotilla pub -t a -n --user-property k", ErrorKind::ValueValidation);
    check_refused("flotilla pub -t a -n --topic-alias 0", ErrorKind::ValueValidation);
    check_refused("flotilla pub -t a -n -W -1", ErrorKind::UnknownArgument);
    check_refused("flotilla pub -t a -n -W nan", ErrorKind::ValueValidation);
    check_refused("flotilla pub -t a -n --repeat 0", ErrorKind::ValueValidation);
    check_refused("flotilla pub -t a -n --will-payload x", ErrorKind::MissingRequiredArgument);
    check_refused("flotilla pub -t a -n --no-clean-start", ErrorKind::MissingRequiredArgument);
    check_refused("flotilla sub -t a -v --json", ErrorKind::ArgumentConflict);
    check_refused("flotilla sub -t a -c 0", ErrorKind::ValueValidation);
    check_refused("flotilla sub -t a --subscription-id 268435456", ErrorKind::ValueValidation);
}

#[test]
fn help_is_long_only_and_lists_the_exit_codes() {
    for command in ["pub", "sub"] {
        let help = Cli::try_parse_from(["flotilla", command, "--help"]).expect_err("help ends parsing");
        assert_eq!(help.kind(), ErrorKind::DisplayHelp);
        let text = help.to_string();
        assert!(text.contains("27  the time of --timeout is over") && text.contains("Will:"), "{text}");
        let about = if command == "pub" { "Publish messages" } else { "Subscribe to topics" };
        assert!(text.starts_with(about), "a flattened group has taken the place of the description: {text}");
    }
}
