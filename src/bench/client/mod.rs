//! One client without its socket: bytes in, bytes out, counts. The time comes as an argument.
//!
//! A client connects, waits to be told to subscribe, is ready, and leaves when it is told to. `publisher` and `subscriber` are what
//! it does in between.

mod inflight;
mod publisher;
mod subscriber;
#[cfg(test)]
mod tests;

pub(super) use publisher::Pace;

use std::num::NonZeroU16;

use flotilla_mqtt::{
    ProtocolVersion, ReasonCode,
    codec::{self, Decoder, EncodeError},
    packet::{ConnAck, Connect, ConnectProperties, Disconnect, DisconnectProperties, Packet},
};

use super::{
    clock::nanoseconds,
    error::Ending,
    plan::{ClientPlan, Name, RolePlan, SessionPlan},
    settings::Settings,
    tally::{Period, Tally},
};
use publisher::Publisher;
use subscriber::{Subscriber, acknowledge};

/// What is around a client while it works.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) settings: &'a Settings,
    pub(super) decoder: Decoder,
    /// Nanoseconds of this process.
    pub(super) now: u64,
    pub(super) period: Period,
    pub(super) tally: &'a mut Tally,
    /// Flows of which messages arrived, and how many.
    pub(super) deliveries: &'a mut Vec<(u32, u32)>,
}

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    name: Name,
    session: SessionPlan,
    state: State,
    role: Role,
    output: Vec<u8>,
    /// How much of `output` is written.
    written: usize,
    /// When the connection was begun; later, when the broker was last asked something that it must answer.
    asked_at: u64,
    sent_at: u64,
    /// Seconds; 0: never ping.
    keep_alive: u16,
    is_ping_unanswered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is done yet, or TCP is connecting.
    Connecting,
    /// CONNECT is sent.
    Greeting,
    Connected,
    Subscribing,
    Ready,
    /// DISCONNECT is sent.
    Leaving,
}

#[derive(Debug)]
enum Role {
    Subscriber(Box<Subscriber>),
    Publisher(Box<Publisher>),
}

impl Client {
    /// # Errors
    /// Its messages cannot be written down.
    pub(super) fn new(plan: ClientPlan, settings: &Settings) -> Result<Self, EncodeError> {
        let role = match plan.role {
            RolePlan::Subscriber(subscriber) => Role::Subscriber(Box::new(Subscriber::new(subscriber))),
            RolePlan::Publisher(publisher) => {
                Role::Publisher(Box::new(Publisher::new(&publisher, settings)?))
            }
        };
        Ok(Self {
            name: plan.name,
            session: plan.session,
            state: State::Connecting,
            role,
            output: Vec::new(),
            written: 0,
            asked_at: 0,
            sent_at: 0,
            keep_alive: settings.keep_alive,
            is_ping_unanswered: false,
        })
    }

    /// TCP begins to connect.
    pub(super) fn handle_begun(&mut self, now: u64) {
        self.asked_at = now;
    }

    /// TCP is connected: says CONNECT.
    ///
    /// # Errors
    /// It cannot be written down.
    pub(super) fn handle_open(&mut self, cx: &Context<'_>) -> Result<(), Ending> {
        if self.state != State::Connecting {
            return Ok(());
        }
        let settings = cx.settings;
        let client_id = self.name.client_id(&settings.client_id_prefix);
        let is_kept = self.session != SessionPlan::Transient;
        let connect = Connect {
            version: settings.version,
            // Before 5.0 a session that is to stay is one that does not begin clean.
            clean_start: match self.session {
                SessionPlan::Transient => true,
                SessionPlan::Begins => settings.version.is_v5(),
                SessionPlan::Resumes => false,
            },
            keep_alive: settings.keep_alive,
            client_id: &client_id,
            will: None,
            username: settings.username.as_deref(),
            password: settings.password.as_deref(),
            properties: ConnectProperties {
                session_expiry: if is_kept && settings.version.is_v5() { SESSION_SECONDS } else { 0 },
                receive_maximum: NonZeroU16::MAX,
                ..ConnectProperties::default()
            },
        };
        self.write(&Packet::Connect(Box::new(connect)), settings.version)?;
        self.state = State::Greeting;
        Ok(())
    }

    /// Takes bytes from the broker, and returns how many of them were whole packets. The others must come again.
    ///
    /// # Errors
    /// The client is at its end.
    #[inline]
    pub(super) fn handle_input(&mut self, input: &[u8], cx: &mut Context<'_>) -> Result<usize, Ending> {
        let mut taken = 0;
        while let Some((packet, len)) = cx.decoder.decode(&input[taken..])? {
            if let (Packet::Publish(publish), Role::Subscriber(subscriber)) = (&packet, &mut self.role) {
                subscriber.handle_publish(publish, &mut self.output, cx)?;
            } else {
                self.handle_packet(packet, cx)?;
            }
            taken += len;
        }
        Ok(taken)
    }

    /// Subscribes to everything.
    ///
    /// # Errors
    /// A filter cannot be written down.
    pub(super) fn subscribe(&mut self, cx: &mut Context<'_>) -> Result<(), Ending> {
        if self.state != State::Connected {
            return Ok(());
        }
        self.state = State::Subscribing;
        self.asked_at = cx.now;
        self.subscribe_more(cx)
    }

    /// Sends the messages that may be sent.
    ///
    /// # Errors
    /// A message cannot be written down.
    #[inline]
    pub(super) fn send(&mut self, pace: &Pace, cx: &mut Context<'_>) -> Result<(), Ending> {
        match &mut self.role {
            Role::Publisher(publisher) if self.state == State::Ready => {
                Ok(publisher.send(pace, &mut self.output, cx)?)
            }
            _ => Ok(()),
        }
    }

    /// Called once a second: pings, and finds out who has waited for too long. `pace` as for [`Client::send`].
    ///
    /// # Errors
    /// The broker does not answer.
    pub(super) fn tick(&mut self, pace: &Pace, cx: &mut Context<'_>) -> Result<(), Ending> {
        let is_waiting = matches!(self.state, State::Connecting | State::Greeting | State::Subscribing);
        if is_waiting && cx.now.saturating_sub(self.asked_at) >= nanoseconds(cx.settings.connect_timeout) {
            return Err(Ending::Timeout { is_connected: self.state == State::Subscribing });
        }
        if !matches!(self.state, State::Connected | State::Subscribing | State::Ready) {
            return Ok(());
        }
        if let Role::Publisher(publisher) = &mut self.role {
            publisher.write_off(pace, cx);
        }
        // Early, so that the packet is there before the interval is over [MQTT-3.1.2-20].
        let interval = u64::from(self.keep_alive) * 1_000_000_000;
        if interval > 0 && cx.now.saturating_sub(self.sent_at) >= interval * 3 / 4 {
            if self.is_ping_unanswered {
                return Err(Ending::Silent);
            }
            self.is_ping_unanswered = true;
            self.write(&Packet::PingReq, cx.settings.version)?;
        }
        Ok(())
    }

    /// Says DISCONNECT, as far as there is somebody to say it to.
    ///
    /// # Errors
    /// It cannot be written down.
    pub(super) fn disconnect(&mut self, version: ProtocolVersion) -> Result<(), Ending> {
        let is_open = !matches!(self.state, State::Connecting | State::Leaving);
        self.state = State::Leaving;
        if is_open {
            let properties = DisconnectProperties::default();
            self.write(&Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties }), version)?;
        }
        Ok(())
    }

    /// What is to be written.
    #[inline]
    pub(super) fn output(&self) -> &[u8] {
        &self.output[self.written..]
    }

    /// So much of it is written.
    #[inline]
    pub(super) fn handle_written(&mut self, len: usize, now: u64) {
        self.sent_at = now;
        self.written += len;
        if self.written == self.output.len() {
            self.written = 0;
            self.output.clear();
            if self.state == State::Greeting {
                // Whoever stays idle from here on needs it no more.
                self.output = Vec::new();
            }
        } else if self.written >= OUTPUT_MAX {
            self.output.drain(..self.written);
            self.written = 0;
        }
    }

    /// Whether the broker has taken so little of what was written that nothing more should be read from it.
    #[inline]
    pub(super) fn is_congested(&self) -> bool {
        self.output.len() - self.written >= OUTPUT_MAX
    }

    /// Whether it has had its CONNACK.
    pub(super) const fn is_connected(&self) -> bool {
        matches!(self.state, State::Connected | State::Subscribing | State::Ready)
    }

    /// Whether it has everything that it needs to take part.
    pub(super) const fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready)
    }

    fn handle_packet(&mut self, packet: Packet<'_>, cx: &mut Context<'_>) -> Result<(), Ending> {
        match (packet, &mut self.role) {
            (Packet::ConnAck(connack), _) if self.state == State::Greeting => {
                self.handle_connack(&connack, cx)
            }
            (Packet::PubAck(ack), Role::Publisher(publisher)) => {
                publisher.handle_puback(&ack, cx);
                Ok(())
            }
            (Packet::PubRec(ack), Role::Publisher(publisher)) => {
                Ok(publisher.handle_pubrec(&ack, &mut self.output, cx)?)
            }
            (Packet::PubComp(ack), Role::Publisher(publisher)) => {
                publisher.handle_pubcomp(&ack, cx);
                Ok(())
            }
            (Packet::PubRel(ack), Role::Subscriber(_)) => {
                Ok(acknowledge(Packet::PubComp, ack.id, &mut self.output, cx)?)
            }
            (Packet::SubAck(suback), Role::Subscriber(subscriber)) => {
                subscriber.handle_suback(&suback, cx)?;
                self.asked_at = cx.now;
                self.subscribe_more(cx)
            }
            (Packet::PingResp, _) => {
                self.is_ping_unanswered = false;
                Ok(())
            }
            (Packet::Disconnect(Disconnect { reason, properties }), _) => {
                Err(Ending::Disconnected { reason, text: properties.reason_string.map(str::to_owned) })
            }
            (packet, _) => Err(Ending::Unexpected(packet.packet_type())),
        }
    }

    fn handle_connack(&mut self, connack: &ConnAck<'_>, cx: &mut Context<'_>) -> Result<(), Ending> {
        let properties = &connack.properties;
        if connack.reason.is_error() {
            let text = properties.reason_string.map(str::to_owned);
            return Err(Ending::Refused { reason: connack.reason, text });
        }
        if self.session == SessionPlan::Resumes && !connack.session_present {
            return Err(Ending::SessionGone);
        }
        // [MQTT-3.2.2-21]
        self.keep_alive = properties.server_keep_alive.unwrap_or(self.keep_alive);
        match &mut self.role {
            Role::Publisher(publisher) => {
                publisher.handle_limits(properties, cx.settings.traffic.payload_len)?;
            }
            // What was queued is on its way from the moment that somebody asked for it.
            Role::Subscriber(subscriber) if self.session == SessionPlan::Resumes => {
                subscriber.since = Some(self.asked_at);
            }
            Role::Subscriber(_) => {}
        }
        cx.tally.connect.saturating_record(cx.now.saturating_sub(self.asked_at));
        cx.tally.progress.connected += 1;
        self.state = State::Connected;
        Ok(())
    }

    fn subscribe_more(&mut self, cx: &mut Context<'_>) -> Result<(), Ending> {
        if let Role::Subscriber(subscriber) = &mut self.role {
            subscriber.subscribe(&mut self.output, cx)?;
            if !subscriber.is_done() {
                return Ok(());
            }
        }
        self.state = State::Ready;
        cx.tally.progress.ready += 1;
        Ok(())
    }

    fn write(&mut self, packet: &Packet<'_>, version: ProtocolVersion) -> Result<(), Ending> {
        Ok(codec::encode(packet, version, &mut self.output)?)
    }
}

/// Bytes that wait for the socket before nothing more is written, and nothing more is read that would have to be answered.
const OUTPUT_MAX: usize = 128 * 1024;

/// How long a broker should keep a session that is not removed as it should be.
const SESSION_SECONDS: u32 = 3_600;
