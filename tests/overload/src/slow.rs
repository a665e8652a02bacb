//! Clients that take what they get slowly, or not at all.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use crate::{
    fleet::Node,
    harness::{Client, Connect, Event, Packet, Publish, Version, ack},
};

/// A client whose system keeps next to nothing for it, so that what it does not read stays with the broker.
#[track_caller]
pub(crate) fn connect(node: &Node, connect: &Connect) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("there is room for a socket");
    // Before it is connected, for then the window is agreed on.
    socket.set_recv_buffer_size(RECEIVE_BUFFER).expect("a new socket takes options");
    socket.connect(&node.mqtt().into()).expect("the broker listens");
    let mut client = Client::over(TcpStream::from(socket), Version::V5);
    client.send(&connect.bytes());
    client.expect_connack(0);
    client
}

/// Takes one packet a second, and answers it, until `is_over`; the messages that it got. `None`: the broker has closed.
pub(crate) fn sip(client: &mut Client, is_over: impl Fn() -> bool) -> Option<Vec<Publish>> {
    let mut taken = Vec::new();
    let mut next = Instant::now();
    while !is_over() {
        let until = next.saturating_duration_since(Instant::now());
        if !until.is_zero() {
            // It does nothing on purpose, but for looking whether it is over.
            std::thread::sleep(until.min(NAP));
            continue;
        }
        next += BETWEEN;
        match client.next_event(NAP) {
            Some(Event::Packet(Packet::Publish(publish))) => {
                let answer = [ack(0x40, publish.id), ack(0x50, publish.id)];
                if publish.qos > 0 && client.try_send(&answer[usize::from(publish.qos) - 1]).is_err() {
                    return None;
                }
                taken.push(publish);
            }
            Some(Event::Packet(Packet::PubRel { id, .. })) if client.try_send(&ack(0x70, id)).is_err() => {
                return None;
            }
            Some(Event::Packet(Packet::Disconnect { .. }) | Event::Closed) => return None,
            Some(Event::Packet(_)) | None => {}
        }
    }
    Some(taken)
}

const BETWEEN: Duration = Duration::from_secs(1);
const NAP: Duration = Duration::from_millis(50);
/// The system takes no less than about two kibibytes.
const RECEIVE_BUFFER: usize = 4_096;
