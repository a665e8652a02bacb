//! Messages that the broker stores: retained ones, and those for sessions whose clients are away.

use std::{sync::Arc, time::Duration};

use super::Run;
use crate::bench::{
    args::{OfflineArgs, RetainedArgs},
    error::BenchError,
    plan::{Plan, SessionPlan},
    process::Meter,
    report::{Messages, Stretch},
    tally::Tally,
};

impl Run {
    /// Sets retained messages, has new subscribers get them, and removes them.
    pub(super) fn retained(&mut self, args: &RetainedArgs) -> Result<(), BenchError> {
        let settings = Arc::clone(&self.settings);
        let (messages, publishers) = (args.messages.get(), args.publishers.get());
        let fan = args.subscribers.get().into();
        let plan = Plan::retained_publishers(&settings, messages, publishers, false);
        let stored = self.store(plan, messages.into(), "setting")?;
        let mut received = Tally::new();
        if !self.is_over() {
            let plan = Plan::retained_subscribers(&settings, messages, args.subscribers.get());
            received = self.fetch(plan, accepted(&stored) * fan, true)?;
        }
        let plan = Plan::retained_publishers(&settings, messages, publishers, true);
        self.clean_up(plan, Some(messages.into()))?;
        self.judge_stored(&stored, &received, fan);
        self.latencies.push(("acknowledgement", stored.acknowledgement));
        self.latencies.push(("delivery", received.delivery));
        Ok(())
    }

    /// Begins sessions, queues messages for them while their clients are away, lets the clients come back, and ends the sessions.
    pub(super) fn offline(&mut self, args: &OfflineArgs) -> Result<(), BenchError> {
        let settings = Arc::clone(&self.settings);
        let (sessions, each) = (args.sessions.get(), args.messages.get());
        let fleet = self.fleet(Plan::offline_subscribers(&settings, sessions, SessionPlan::Begins))?;
        let is_ready = self.set_up(&fleet);
        self.finish(fleet)?;
        let (mut stored, mut received) = (Tally::new(), Tally::new());
        if is_ready && !self.is_over() {
            let plan = Plan::offline_publishers(&settings, sessions, each, args.publishers.get());
            stored = self.store(plan, u64::from(sessions) * u64::from(each), "queueing")?;
        }
        if is_ready && !self.is_over() {
            let plan = Plan::offline_subscribers(&settings, sessions, SessionPlan::Resumes);
            received = self.fetch(plan, accepted(&stored), false)?;
        }
        self.clean_up(Plan::offline_subscribers(&settings, sessions, SessionPlan::Transient), None)?;
        self.judge_stored(&stored, &received, 1);
        self.latencies.push(("acknowledgement", stored.acknowledgement));
        self.latencies.push(("delivery", received.delivery));
        Ok(())
    }

    /// Sends `count` messages, and waits until the broker has all of them.
    fn store(&mut self, plan: Plan, count: u64, what: &'static str) -> Result<Tally, BenchError> {
        let (brokers, clock) = (self.brokers.clone(), self.clock);
        let fleet = self.fleet(plan)?;
        let costs = self.connect(&fleet);
        if self.report.connections.asked == 0 {
            let connected = fleet.progress().connected;
            self.report_connects(connected, &costs);
        }
        fleet.subscribe();
        let asked = fleet.clients();
        self.wait(&fleet, "connecting", None, |progress| {
            progress.ready + progress.failed + progress.unready >= asked
        });
        let meter = Meter::start(&brokers, clock);
        let begun_at = fleet.send(Duration::ZERO, None).from;
        self.wait(&fleet, what, Some(PATIENCE), |progress| {
            progress.acknowledged >= count || progress.live() == 0
        });
        let costs = meter.read();
        fleet.stop_sending();
        let tally = self.finish(fleet)?;
        let time = Duration::from_nanos(tally.last_acknowledged.saturating_sub(begun_at));
        let stored = accepted(&tally);
        self.report.store = Some(Stretch::of(stored, time, &tally.acknowledgement, &costs));
        if tally.progress.sent < count && !self.stop.is_set() {
            self.report.faults.push(format!("{} of {count} messages were sent", tally.progress.sent));
        }
        Ok(tally)
    }

    /// Receives `count` messages: after subscribing, or what the sessions have.
    fn fetch(&mut self, plan: Plan, count: u64, subscribe: bool) -> Result<Tally, BenchError> {
        let (brokers, clock) = (self.brokers.clone(), self.clock);
        let (mut meter, mut begun_at) = (Meter::start(&brokers, clock), clock.now());
        let fleet = self.fleet(plan)?;
        if subscribe {
            self.connect(&fleet);
            (meter, begun_at) = (Meter::start(&brokers, clock), clock.now());
            fleet.subscribe();
        }
        let asked = fleet.clients();
        self.wait(&fleet, "receiving", Some(PATIENCE), |progress| {
            let is_gone = progress.connected + progress.failed >= asked && progress.live() == 0;
            progress.received >= count || is_gone
        });
        let costs = meter.read();
        let tally = self.finish(fleet)?;
        let time = Duration::from_nanos(tally.last_received.saturating_sub(begun_at));
        let received = tally.progress.received;
        self.report.fetch = Some(Stretch::of(received, time, &tally.delivery, &costs));
        Ok(tally)
    }

    /// Removes what the run has left with the broker, also when it was told to end. `count`: messages that do so.
    fn clean_up(&mut self, plan: Plan, count: Option<u64>) -> Result<(), BenchError> {
        let fleet = self.fleet(plan)?;
        let asked = fleet.clients();
        self.settle(&fleet, "cleaning up", Some(PATIENCE), |progress| {
            progress.connected + progress.failed >= asked
        });
        if let Some(count) = count {
            fleet.subscribe();
            self.settle(&fleet, "cleaning up", Some(PATIENCE), |progress| {
                progress.ready + progress.failed + progress.unready >= asked
            });
            fleet.send(Duration::ZERO, None);
            self.settle(&fleet, "cleaning up", Some(PATIENCE), |progress| {
                progress.acknowledged >= count || progress.live() == 0
            });
        }
        fleet.stop_sending();
        let tally = fleet.finish()?;
        let is_clean = match count {
            Some(count) => tally.progress.acknowledged >= count,
            None => tally.progress.connected >= asked,
        };
        if !is_clean {
            let left = "what the run has left with the broker could not all be removed";
            self.report.faults.push(left.to_owned());
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.stop.is_set()
    }

    /// What is not as it was asked for.
    fn judge_stored(&mut self, stored: &Tally, received: &Tally, fan: u64) {
        let messages = Messages::of(stored, received, fan, true);
        let is_exactly_once = self.settings.traffic.effective_qos() == flotilla_mqtt::QoS::ExactlyOnce;
        let is_interrupted = self.is_over();
        let (faults, remarks) = (&mut self.report.faults, &mut self.report.remarks);
        if messages.refused > 0 {
            faults.push(format!("{} messages were refused", messages.refused));
        }
        // What was under way when the run was to end is not waited for.
        if messages.unacknowledged > 0 && !is_interrupted {
            faults.push(format!("{} messages were not acknowledged", messages.unacknowledged));
        }
        if messages.lost > 0 && !is_interrupted {
            faults.push(format!("{} of {} messages were lost", messages.lost, messages.expected));
        }
        if messages.duplicates > 0 {
            let text = format!("{} messages came twice", messages.duplicates);
            if is_exactly_once { faults.push(text) } else { remarks.push(text + ", as QoS 1 allows") }
        }
        if messages.reordered > 0 {
            faults.push(format!("{} messages came after a later one", messages.reordered));
        }
        self.report.messages = Some(messages);
    }
}

/// Messages that the broker has taken.
fn accepted(tally: &Tally) -> u64 {
    tally.progress.acknowledged.saturating_sub(tally.messages_refused)
}

/// How long nothing may happen before nothing more is expected: longer than some brokers wait before they send again.
const PATIENCE: Duration = Duration::from_secs(15);
