//! `flotilla start`.

use std::{io, net::SocketAddr, process::ExitCode, thread, time::Duration};

use clap::Args;
use flotilla::{
    Broker, BrokerHandle,
    config::{Auth, Cluster, Config},
    telemetry,
};
use rlimit::Resource;
use tokio::{runtime::Builder, sync::oneshot, time};
use tracing::{debug, error, info, warn};

use super::{ConfigArgs, VERSION, report, say, signals::Signals};

#[derive(Debug, Args)]
pub(super) struct StartArgs {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// Stop when standard input ends, too: a parent that is killed cannot send a signal any more.
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

/// Starts a broker and waits until it is to stop.
pub(super) fn run(args: &StartArgs) -> ExitCode {
    let config = match args.config.load() {
        Ok((config, _)) => config,
        Err(errors) => {
            report(&errors);
            return ExitCode::FAILURE;
        }
    };
    telemetry::init(&config.log);
    raise_descriptor_limit();
    match serve(config, args.stop_with_stdin) {
        Ok(ending) => ending.exit_code(),
        Err(error) => {
            error!(error = %error, "cannot start");
            ExitCode::FAILURE
        }
    }
}

/// How a broker came to its end.
enum Ending {
    /// It was told to, and everything was closed in time.
    Stopped,
    /// It was told to, and the grace was over before everything was closed.
    GraceOver,
    /// A second signal of this number came.
    Hurried(i32),
    /// One of its threads ended on its own.
    Failed,
}

impl Ending {
    /// 0 only when everything was closed; as a shell would say it where a signal ended the process.
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Stopped => ExitCode::SUCCESS,
            Self::GraceOver | Self::Failed => ExitCode::FAILURE,
            Self::Hurried(number) => u8::try_from(128 + number).map_or(ExitCode::FAILURE, ExitCode::from),
        }
    }
}

fn serve(config: Config, stop_with_stdin: bool) -> Result<Ending, Box<dyn std::error::Error>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    // Before the first line that somebody may wait for: a signal after it must find us listening.
    let mut signals = Signals::new(&runtime)?;
    let mut input = if stop_with_stdin { Some(watch_stdin()?) } else { None };
    let (name, grace) = (config.node.name.clone(), config.node.shutdown_grace);
    let (auth, cluster) = (config.auth.clone(), config.cluster.clone());
    let broker = Broker::start(config)?;
    warn_of_open_doors(&auth, broker.listeners());
    warn_of_open_cluster(&cluster);
    announce_listeners(broker.listeners());
    Ok(runtime.block_on(run_until_stopped(broker, &name, &mut signals, input.as_mut(), grace)))
}

async fn run_until_stopped(
    broker: BrokerHandle,
    name: &str,
    signals: &mut Signals,
    input: Option<&mut oneshot::Receiver<()>>,
    grace: Duration,
) -> Ending {
    let input_ended = async {
        match input {
            Some(input) => _ = input.await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(input_ended);
    let mut health = time::interval(HEALTH_INTERVAL);
    let mut is_announced = false;
    loop {
        tokio::select! {
            number = signals.next() => {
                info!(signal = number, grace = ?grace, "stopping");
                break;
            }
            () = &mut input_ended => {
                info!(grace = ?grace, "stopping, for standard input has ended");
                break;
            }
            _ = health.tick() => {
                if broker.has_failed() {
                    error!("a worker ended on its own, which leaves its clients unserved");
                    return Ending::Failed;
                }
                if broker.has_left() {
                    info!("this node has left its cluster, stopping");
                    break;
                }
            }
            () = time::sleep(READY_INTERVAL), if !is_announced => if broker.is_ready() {
                announce_ready(name);
                is_announced = true;
            },
        }
    }
    // Stopping blocks, and a second signal must not wait for it. The thread ends with the process.
    let (report, stopped) = oneshot::channel();
    let stopper = thread::Builder::new().name("stop".to_owned());
    if let Err(error) = stopper.spawn(move || report.send(broker.stop(grace))) {
        error!(%error, "cannot start a thread to stop with");
        return Ending::GraceOver;
    }
    tokio::select! {
        in_time = stopped => match in_time {
            Ok(true) => {
                info!("stopped");
                Ending::Stopped
            }
            Ok(false) | Err(_) => {
                warn!(grace = ?grace, "not everything was closed in time");
                Ending::GraceOver
            }
        },
        number = signals.next() => {
            warn!(signal = number, "a second signal came, ending at once");
            Ending::Hurried(number)
        }
    }
}

/// Tells when standard input ends. What comes before is nothing to us.
fn watch_stdin() -> io::Result<oneshot::Receiver<()>> {
    let (ended, end) = oneshot::channel();
    let reader = move || {
        // An input that cannot be read has ended, too.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = ended.send(());
    };
    thread::Builder::new().name("stdin".to_owned()).spawn(reader)?;
    Ok(end)
}

/// Says what listens where. Whoever started us may wait for these lines, but need not.
fn announce_listeners(listeners: &[(String, SocketAddr)]) {
    say_if_read(
        listeners.iter().try_for_each(|(name, addr)| say(format_args!("listener {name}: mqtt on {addr}"))),
    );
}

/// Says that clients are served: at once, or when a member of a cluster has found it.
fn announce_ready(node: &str) {
    say_if_read(say(format_args!("flotilla {VERSION} ready, node {node}")));
}

fn say_if_read(said: io::Result<()>) {
    if let Err(error) = said {
        debug!(%error, "nobody reads standard output");
    }
}

fn warn_of_open_doors(auth: &Auth, listeners: &[(String, SocketAddr)]) {
    if !auth.anonymous {
        warn!(
            "no client can connect: auth.anonymous is false, and there is no other way to authenticate yet"
        );
        return;
    }
    for (name, addr) in listeners.iter().filter(|(_, addr)| !addr.ip().to_canonical().is_loopback()) {
        warn!(listener = %name, %addr, "everybody who can reach this address may connect, publish and subscribe");
    }
}

fn warn_of_open_cluster(cluster: &Cluster) {
    if let Some(listen) =
        cluster.listen.as_ref().filter(|listen| cluster.secret.is_none() && !listen.is_loopback())
    {
        warn!(%listen, "everybody who can reach this address may join the cluster and command it: set cluster.secret");
    }
}

/// Every connection is a descriptor, and the usual soft limit of 1,024 is there for programs that use `select`.
fn raise_descriptor_limit() {
    match rlimit::increase_nofile_limit(rlimit::INFINITY) {
        Ok(limit) => debug!(limit, "file descriptors"),
        Err(error) => {
            let limit = Resource::NOFILE.get_soft().ok();
            warn!(%error, limit, "cannot raise the limit of file descriptors, which limits the connections");
        }
    }
}

/// How soon a broker that has become ready says so.
const READY_INTERVAL: Duration = Duration::from_millis(20);
/// How often the workers are looked after.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);
