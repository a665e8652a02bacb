//! What `flotilla sub` does.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use flotilla_mqtt::{
    ReasonCode,
    packet::{Filters, Subscribe, SubscriptionOptions, UserProperties},
};
use tokio::time;

use super::{
    args::SubArgs,
    connection::Connection,
    error::{ClientError, describe},
    options::{self, Identity},
    print::{Printer, tell},
    protocol::{Event, Received},
    stop::Stop,
};

/// Connects, subscribes and prints messages until there are enough of them.
///
/// # Errors
/// The end came before that.
pub(super) async fn subscribe(args: SubArgs) -> Result<(), ClientError> {
    args.topics.iter().try_for_each(|filter| options::check_filter(filter))?;
    options::check_subscribe_properties(args.connection.protocol_version, &args.options)?;
    let identity = Identity::resolve(&args.connection)?;
    let mut stop = Stop::new(args.connection.timeout)?;
    let connection = tokio::select! {
        connection = Connection::open(&args.connection, &identity, TOPIC_ALIAS_MAX) => connection?,
        reason = stop.wait() => return Err(reason),
    };
    let stdout = io::stdout();
    let is_terminal = stdout.is_terminal();
    let printer = Printer::new(stdout.lock(), &args.output, is_terminal);
    let mut subscriber = Subscriber { args: &args, connection, printer, printed: 0, is_refused: false };
    let result = match subscriber.run(&mut stop).await {
        // Without a count, an interrupt is how it is meant to end.
        Err(ClientError::Interrupted) if args.count.is_none() => Ok(()),
        // Nobody reads any more, as in `flotilla sub | head -1`.
        Err(ClientError::WriteOutput(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    };
    let Subscriber { connection, is_refused, .. } = subscriber;
    match result {
        Ok(()) => connection.close(ReasonCode::Success).await?,
        Err(error) => {
            // What went wrong first is what is reported.
            let _ = connection.close(error.reason()).await;
            return Err(error);
        }
    }
    if is_refused { Err(ClientError::Refused) } else { Ok(()) }
}

struct Subscriber<'a, W: io::Write> {
    args: &'a SubArgs,
    connection: Connection,
    printer: Printer<W>,
    printed: u64,
    is_refused: bool,
}

impl<W: io::Write> Subscriber<'_, W> {
    async fn run(&mut self, stop: &mut Stop) -> Result<(), ClientError> {
        self.send_subscribe()?;
        let mut is_done = false;
        loop {
            while !is_done && let Some(event) = self.connection.next_event()? {
                is_done = self.handle_event(event)?;
            }
            // Before the acknowledgements leave, which only `pump` makes them do.
            self.printer.flush().map_err(ClientError::WriteOutput)?;
            if is_done {
                return self.release().await;
            }
            tokio::select! {
                biased;
                reason = stop.wait() => return Err(reason),
                pumped = self.connection.pump() => pumped?,
            }
        }
    }

    fn send_subscribe(&mut self) -> Result<(), ClientError> {
        let options = SubscriptionOptions {
            qos: self.args.qos,
            no_local: self.args.options.no_local,
            retain_as_published: self.args.options.retain_as_published,
            retain_handling: self.args.options.retain_handling,
        };
        let filters: Vec<_> = self.args.topics.iter().map(|filter| (filter.as_str(), options)).collect();
        let pairs = &self.args.options.user_properties;
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.connection.protocol.subscribe(|id| Subscribe {
            id,
            subscription_id: self.args.options.subscription_id,
            user_properties: UserProperties::from(&pairs[..]),
            filters: Filters::from(&filters[..]),
        })
    }

    /// Returns whether that was all.
    fn handle_event(&mut self, event: Event) -> Result<bool, ClientError> {
        match event {
            Event::Subscribed { reasons, text } => self.handle_suback(&reasons, text.as_deref()),
            Event::Message(message) => self.handle_message(&message),
            Event::Greeted(_) | Event::Published { .. } | Event::Pong => Ok(false),
        }
    }

    fn handle_suback(&mut self, reasons: &[ReasonCode], text: Option<&str>) -> Result<bool, ClientError> {
        let mut granted = 0;
        for (filter, &reason) in self.args.topics.iter().zip(reasons) {
            if reason.is_error() {
                tell(format_args!(
                    "the broker refused the subscription to {filter}: {}",
                    describe(reason, text)
                ));
                self.is_refused = true;
            } else {
                granted += 1;
                if self.args.connection.debug {
                    tell(format_args!("subscribed to {filter}: {}", describe(reason, text)));
                }
            }
        }
        if granted == 0 { Err(ClientError::Refused) } else { Ok(self.args.exit_after_subscribe) }
    }

    fn handle_message(&mut self, message: &Received) -> Result<bool, ClientError> {
        if !(message.retain && self.args.output.skip_retained) {
            self.printer.print(message).map_err(ClientError::WriteOutput)?;
            self.printed += 1;
        }
        self.connection.protocol.acknowledge(message.delivery)?;
        Ok(self.args.count == Some(self.printed))
    }

    /// Lets the broker finish the QoS 2 exchanges of what is printed; a message that comes meanwhile is not
    /// acknowledged, so that a session that goes on has it again.
    async fn release(&mut self) -> Result<(), ClientError> {
        let released = time::timeout(RELEASE_TIMEOUT, async {
            while self.connection.protocol.is_awaiting_release() {
                if self.connection.next_event()?.is_none() {
                    self.connection.pump().await?;
                }
            }
            Ok(())
        });
        released.await.unwrap_or(Ok(()))
    }
}

/// The topic aliases that a broker may use towards us.
const TOPIC_ALIAS_MAX: u16 = 32;

/// How long the end of a QoS 2 exchange is waited for.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
