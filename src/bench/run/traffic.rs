//! Messages that go on for a time.

use std::time::Duration;

use flotilla_mqtt::QoS;

use super::Run;
use crate::bench::{
    error::BenchError,
    plan::Plan,
    process::{Costs, Meter},
    report::{CostsReport, Messages, Percentiles, TrafficReport, per_second, seconds},
    settings::Traffic,
    tally::{Period, Tally},
    worker::Fleet,
};

impl Run {
    /// Sends for as long as was asked for, and checks that everything arrived.
    pub(super) fn traffic(&mut self, plan: Plan) -> Result<(), BenchError> {
        let fan = plan.fan;
        let fleet = self.fleet(plan)?;
        if !self.set_up(&fleet) {
            self.finish(fleet)?;
            self.report.faults.push("nothing was sent, for not everybody was ready".to_owned());
            return Ok(());
        }
        let (period, costs) = self.send(&fleet);
        self.drain(&fleet, fan);
        let tally = self.finish(fleet)?;

        let traffic = self.settings.traffic.clone();
        let messages = Messages::of(&tally, &tally, fan, traffic.qos != QoS::AtMostOnce);
        let report = traffic_report(&tally, period, &costs);
        self.judge(&messages, &report, &traffic);
        self.report.traffic = Some(report);
        self.report.messages = Some(messages);
        self.latencies.push(("delivery", tally.delivery));
        self.latencies.push(("acknowledgement", tally.acknowledgement));
        Ok(())
    }

    /// Warms up, and measures.
    fn send(&mut self, fleet: &Fleet) -> (Period, Costs) {
        let (warm_up, time) = (self.settings.traffic.warm_up, self.settings.traffic.time);
        let (clock, brokers) = (self.clock, self.brokers.clone());
        let period = fleet.send(warm_up, Some(time));
        self.hold_until(fleet, "warming up", period.from);
        let meter = Meter::start(&brokers, clock);
        self.hold_until(fleet, "measuring", period.until);
        let costs = meter.read();
        (fleet.stop_sending(), costs)
    }

    /// Waits for what is under way.
    fn drain(&mut self, fleet: &Fleet, fan: u64) {
        let is_acknowledged = self.settings.traffic.qos != QoS::AtMostOnce;
        self.settle(fleet, "waiting", Some(DRAIN_PATIENCE), |progress| {
            let is_done = !is_acknowledged || progress.acknowledged >= progress.sent;
            (is_done && progress.received >= progress.sent * fan) || progress.live() == 0
        });
    }

    /// What is not as it was asked for.
    fn judge(&mut self, messages: &Messages, report: &TrafficReport, traffic: &Traffic) {
        let qos = traffic.effective_qos();
        let (faults, remarks) = (&mut self.report.faults, &mut self.report.remarks);
        if messages.lost > 0 {
            let text = format!("{} of {} messages were lost", messages.lost, messages.expected);
            if qos == QoS::AtMostOnce { remarks.push(text + ", as QoS 0 allows") } else { faults.push(text) }
        }
        if messages.duplicates > 0 {
            let text = format!("{} messages came twice", messages.duplicates);
            if qos == QoS::AtLeastOnce { remarks.push(text + ", as QoS 1 allows") } else { faults.push(text) }
        }
        if messages.reordered > 0 {
            let text = format!("{} messages came after a later one", messages.reordered);
            let is_shared = self.report.scenario == "shared";
            if is_shared { remarks.push(text + ", as a group allows") } else { faults.push(text) }
        }
        if messages.unacknowledged > 0 {
            faults.push(format!("{} messages were not acknowledged", messages.unacknowledged));
        }
        if messages.refused > 0 {
            faults.push(format!("{} messages were refused", messages.refused));
        }
        if report.sent == 0 {
            faults.push("nothing was sent in the measured time".to_owned());
        }
        // A few are always between two looks at the clock.
        let due = report.unsent + report.sent;
        if report.unsent > due / 100 {
            faults.push(format!(
                "the rate was not reached: {} of {due} messages were sent. Is a window full, or this machine busy? \
                 --ack-window and --threads set more",
                report.sent
            ));
        }
    }
}

fn traffic_report(tally: &Tally, period: Period, costs: &Costs) -> TrafficReport {
    let measured = &tally.measured;
    // Less than was asked for when the run was interrupted, and nothing when that was before.
    let time = Duration::from_nanos(period.until.saturating_sub(period.from));
    TrafficReport {
        seconds: seconds(time),
        sent: measured.sent,
        received: measured.received,
        sent_per_second: per_second(measured.sent, time),
        received_per_second: per_second(measured.received, time),
        acknowledged_per_second: per_second(measured.acknowledged, time),
        unsent: measured.due.saturating_sub(measured.sent),
        delivery_latency: Percentiles::of(&tally.delivery),
        acknowledgement_latency: Percentiles::of(&tally.acknowledgement),
        costs: CostsReport::of(costs, measured.received),
    }
}

/// How long nothing may arrive before nothing more is expected.
const DRAIN_PATIENCE: Duration = Duration::from_secs(3);
