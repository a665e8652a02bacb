//! The phases of a run: connect, subscribe, send, wait for what is under way, leave.

mod progress;
mod stored;
mod traffic;

use std::{sync::Arc, thread, time::Duration};

use hdrhistogram::Histogram;

use super::{
    args::Scenario,
    clock::{Clock, nanoseconds},
    error::BenchError,
    plan::Plan,
    process::{Brokers, Costs, Meter},
    report::{
        Connections, Idle, Percentiles, Report, SettingsReport, Subscriptions, bytes_each, cores,
        micros_each, per_second, seconds,
    },
    settings::Settings,
    stop::Stop,
    tally::{Progress, Tally},
    worker::Fleet,
};
use progress::ProgressLine;

/// What a run found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) report: Report,
    /// What can be drawn: names and latencies.
    pub(super) latencies: Vec<(&'static str, Histogram<u64>)>,
}

/// A run under way.
struct Run {
    settings: Arc<Settings>,
    brokers: Brokers,
    clock: Clock,
    stop: Stop,
    line: ProgressLine,
    report: Report,
    latencies: Vec<(&'static str, Histogram<u64>)>,
}

/// Does what the scenario says.
///
/// # Errors
/// There is nothing to report.
pub(super) fn run(scenario: &Scenario, settings: Settings, brokers: Brokers) -> Result<Found, BenchError> {
    let mut run = Run {
        report: Report {
            flotilla_version: env!("CARGO_PKG_VERSION"),
            scenario: scenario.name(),
            settings: SettingsReport::of(&settings, counts(scenario)),
            connections: Connections::default(),
            subscriptions: None,
            idle: None,
            traffic: None,
            store: None,
            fetch: None,
            messages: None,
            interrupted: false,
            faults: Vec::new(),
            remarks: Vec::new(),
        },
        settings: Arc::new(settings),
        brokers,
        clock: Clock::start(),
        stop: Stop::watch().map_err(BenchError::Start)?,
        line: ProgressLine::new(),
        latencies: Vec::new(),
    };
    run.scenario(scenario)?;
    run.line.clear();
    if run.stop.is_set() {
        run.report.interrupted = true;
        run.report.faults.insert(0, "interrupted before it was done".to_owned());
    }
    Ok(Found { report: run.report, latencies: run.latencies })
}

impl Run {
    fn scenario(&mut self, scenario: &Scenario) -> Result<(), BenchError> {
        let settings = Arc::clone(&self.settings);
        match scenario {
            Scenario::Connections(args) => {
                self.connections(Plan::connections(&settings, args.count.get(), args.subscribe), args.time)
            }
            Scenario::Pairs(args) => self.traffic(Plan::pairs(&settings, args.count.get())),
            Scenario::FanOut(args) => {
                self.traffic(Plan::fan_out(&settings, args.publishers.get(), args.subscribers.get()))
            }
            Scenario::FanIn(args) => self.traffic(Plan::fan_in(&settings, args.publishers.get(), None)),
            Scenario::Shared(args) => {
                self.traffic(Plan::fan_in(&settings, args.publishers.get(), Some(args.members.get())))
            }
            Scenario::Wildcard(args) => self.traffic(Plan::wildcard(
                &settings,
                args.filters.get(),
                args.subscribers.get(),
                args.publishers.get(),
            )),
            Scenario::Retained(args) => self.retained(args),
            Scenario::Offline(args) => self.offline(args),
        }
    }

    fn connections(&mut self, plan: Plan, time: Duration) -> Result<(), BenchError> {
        let before = self.brokers.memory();
        let fleet = self.fleet(plan)?;
        self.set_up(&fleet);
        let live = fleet.progress().live();
        let brokers = self.brokers.clone();
        let meter = Meter::start(&brokers, self.clock);
        self.hold(&fleet, "idle", time);
        let costs = meter.read();
        let growth = before.zip(costs.broker_memory);
        let growth =
            growth.and_then(|(before, after)| i64::try_from(after).ok()?.checked_sub_unsigned(before));
        self.report.idle = Some(Idle {
            seconds: seconds(costs.time),
            broker_cores: costs.broker_cpu.map(|cpu| cores(cpu, costs.time)),
            broker_memory_bytes: costs.broker_memory,
            broker_memory_growth_bytes: growth,
            broker_memory_bytes_per_connection: growth.and_then(|growth| bytes_each(growth, live)),
            own_cores: costs.own_cpu.map(|cpu| cores(cpu, costs.time)),
        });
        let tally = self.finish(fleet)?;
        self.latencies.push(("connect", tally.connect));
        Ok(())
    }

    /// Threads for a plan, which begin to connect.
    fn fleet(&self, plan: Plan) -> Result<Fleet, BenchError> {
        Fleet::start(plan, &self.settings, self.clock)
    }

    /// Connects everybody, then subscribes to everything; what it took is reported. Whether everybody is ready.
    fn set_up(&mut self, fleet: &Fleet) -> bool {
        let (asked, brokers) = (fleet.clients(), self.brokers.clone());
        let costs = self.connect(fleet);
        let connected = fleet.progress().connected;
        self.report_connects(connected, &costs);
        if self.stop.is_set() || connected == 0 {
            return false;
        }
        let meter = Meter::start(&brokers, self.clock);
        fleet.subscribe();
        self.wait(fleet, "subscribing", None, |progress| {
            progress.ready + progress.failed + progress.unready >= asked
        });
        self.report_subscriptions(fleet, &meter);
        fleet.progress().ready == asked
    }

    /// Waits until everybody is connected, or is not going to be.
    fn connect(&mut self, fleet: &Fleet) -> Costs {
        let (asked, brokers) = (fleet.clients(), self.brokers.clone());
        let meter = Meter::start(&brokers, self.clock);
        self.wait(fleet, "connecting", None, |progress| progress.connected + progress.failed >= asked);
        meter.read()
    }

    fn report_connects(&mut self, connected: u64, costs: &Costs) {
        let connections = &mut self.report.connections;
        connections.measured = connected;
        connections.seconds = seconds(costs.time);
        connections.connects_per_second = per_second(connected, costs.time);
        connections.broker_cpu_us_per_connect = costs.broker_cpu.and_then(|cpu| micros_each(cpu, connected));
    }

    fn report_subscriptions(&mut self, fleet: &Fleet, meter: &Meter<'_>) {
        let subscribed = fleet.progress().subscribed;
        let costs = meter.read();
        if subscribed == 0 {
            return;
        }
        let mut growth = None;
        if self.brokers.are_known() && self.report.scenario == "wildcard" {
            // What the broker does with it afterwards belongs to it.
            self.hold(fleet, "waiting", SETTLE_TIME);
            growth = meter.read().broker_growth;
        }
        self.report.subscriptions = Some(Subscriptions {
            subscribed,
            refused: 0,
            seconds: seconds(costs.time),
            subscribes_per_second: per_second(subscribed, costs.time),
            broker_cpu_us_per_subscribe: costs.broker_cpu.and_then(|cpu| micros_each(cpu, subscribed)),
            broker_memory_bytes_per_subscription: growth.and_then(|growth| bytes_each(growth, subscribed)),
        });
    }

    /// Lets so much time pass, unless everybody is gone or the run is to end.
    fn hold(&mut self, fleet: &Fleet, what: &'static str, time: Duration) {
        self.hold_until(fleet, what, self.clock.now().saturating_add(nanoseconds(time)));
    }

    /// The same until a moment. Looks rarely, for whoever waits uses CPU time that is measured.
    fn hold_until(&mut self, fleet: &Fleet, what: &'static str, until: u64) {
        loop {
            let (now, progress) = (self.clock.now(), fleet.progress());
            let is_over = now >= until || progress.live() == 0 || fleet.has_failed();
            if is_over || self.stop.is_set() {
                return;
            }
            self.line.show(now, what, fleet.clients(), &progress);
            self.stop.wait(Duration::from_nanos(until - now).min(HOLD_INTERVAL));
        }
    }

    /// Waits until `is_done`, or until nothing has changed for the time of `patience`, or until the run is to end.
    fn wait(
        &mut self,
        fleet: &Fleet,
        what: &'static str,
        patience: Option<Duration>,
        is_done: impl Fn(&Progress) -> bool,
    ) {
        self.watch(fleet, what, patience, |progress, is_stopped| is_stopped || is_done(progress));
    }

    /// The same for what belongs to ending a run: goes on when the run is to end.
    fn settle(
        &mut self,
        fleet: &Fleet,
        what: &'static str,
        patience: Option<Duration>,
        is_done: impl Fn(&Progress) -> bool,
    ) {
        self.watch(fleet, what, patience, |progress, _| is_done(progress));
    }

    /// Waits until `is_over`, which is told whether the run is to end, or until `patience` is.
    fn watch(
        &mut self,
        fleet: &Fleet,
        what: &'static str,
        patience: Option<Duration>,
        is_over: impl Fn(&Progress, bool) -> bool,
    ) {
        let (mut last, mut changed_at) = (fleet.progress(), self.clock.now());
        loop {
            let progress = fleet.progress();
            if is_over(&progress, self.stop.is_set()) || fleet.has_failed() {
                return;
            }
            if self.stop.is_set() {
                thread::sleep(LOOK_INTERVAL);
            } else {
                self.stop.wait(LOOK_INTERVAL);
            }
            self.line.show(self.clock.now(), what, fleet.clients(), &progress);
            if progress != last {
                (last, changed_at) = (progress, self.clock.now());
            }
            let quiet = Duration::from_nanos(self.clock.now() - changed_at);
            if patience.is_some_and(|patience| quiet >= patience) {
                return;
            }
        }
    }

    /// Lets everybody leave, and reports how the connections fared.
    fn finish(&mut self, fleet: Fleet) -> Result<Tally, BenchError> {
        let asked = fleet.clients();
        let tally = fleet.finish()?;
        let connections = &mut self.report.connections;
        connections.asked += asked;
        connections.connected += tally.progress.connected;
        connections.failed += tally.progress.failed;
        connections.disconnected += tally.progress.disconnected;
        if connections.latency.count == 0 {
            connections.latency = Percentiles::of(&tally.connect);
        }
        if let Some(subscriptions) = &mut self.report.subscriptions {
            subscriptions.refused += tally.subscriptions_refused;
        }
        let missing = asked - tally.progress.connected.min(asked);
        if missing > 0 && !self.stop.is_set() {
            self.report.faults.push(format!("{missing} of {asked} clients did not connect"));
        }
        if tally.progress.disconnected > 0 {
            let count = tally.progress.disconnected;
            self.report.faults.push(format!("{count} of {asked} clients lost their connection"));
        }
        let reasons = tally.failures.iter().map(|(text, count)| match count {
            1 => text.to_owned(),
            _ => format!("{text} ({count} times)"),
        });
        self.report.faults.extend(reasons);
        Ok(tally)
    }
}

/// What the scenario has how many of.
fn counts(scenario: &Scenario) -> Vec<(&'static str, u64)> {
    let counts: &[(&str, std::num::NonZeroU32)] = match scenario {
        Scenario::Connections(args) => &[("connections", args.count)],
        Scenario::Pairs(args) => &[("pairs", args.count)],
        Scenario::FanOut(args) => &[("publishers", args.publishers), ("subscribers", args.subscribers)],
        Scenario::FanIn(args) => &[("publishers", args.publishers)],
        Scenario::Shared(args) => &[("publishers", args.publishers), ("members", args.members)],
        Scenario::Wildcard(args) => {
            &[("filters", args.filters), ("subscribers", args.subscribers), ("publishers", args.publishers)]
        }
        Scenario::Retained(args) => {
            &[("messages", args.messages), ("publishers", args.publishers), ("subscribers", args.subscribers)]
        }
        Scenario::Offline(args) => {
            &[("sessions", args.sessions), ("messages_each", args.messages), ("publishers", args.publishers)]
        }
    };
    counts.iter().map(|(name, count)| (*name, count.get().into())).collect()
}

/// How often whoever waits looks, and how often while nothing is expected.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
const HOLD_INTERVAL: Duration = Duration::from_millis(100);
/// How long a broker's memory may go on growing after its last SUBACK.
const SETTLE_TIME: Duration = Duration::from_secs(1);
