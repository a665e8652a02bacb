//! A name server of the test's own, and what can happen to it.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Answers questions for addresses (A) of the names that it knows. It is gone when it is dropped: the system then refuses
/// what is asked.
///
/// Only within [`in_own_network_and_names`](super::in_own_network_and_names), where everybody asks it.
pub(crate) struct NameServer {
    state: Arc<State>,
    serving: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    is_over: AtomicBool,
    is_silent: AtomicBool,
    asked: AtomicU32,
}

impl NameServer {
    /// Knows these names, each without a dot at its end.
    #[track_caller]
    pub(crate) fn start(names: &[(String, Vec<Ipv4Addr>)]) -> Self {
        let names: BTreeMap<String, Vec<Ipv4Addr>> = names.iter().cloned().collect();
        let socket = UdpSocket::bind(ADDRESS).expect("this network is our own, and so are its ports");
        socket.set_read_timeout(Some(LOOK)).expect("a new socket takes options");
        let state = Arc::new(State::default());
        let serving = Arc::clone(&state);
        let serving = thread::spawn(move || serve(&socket, &serving, &names));
        Self { state, serving: Some(serving) }
    }

    /// It takes questions and gives no answers, which takes whoever asks the longest.
    pub(crate) fn fall_silent(&self) {
        self.state.is_silent.store(true, Ordering::Relaxed);
    }

    /// It answers again.
    pub(crate) fn speak(&self) {
        self.state.is_silent.store(false, Ordering::Relaxed);
    }

    /// How many questions have come.
    pub(crate) fn asked(&self) -> u32 {
        self.state.asked.load(Ordering::Relaxed)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
        if let Some(serving) = self.serving.take() {
            // If it has panicked, that was reported.
            let _ = serving.join();
        }
    }
}

fn serve(socket: &UdpSocket, state: &State, names: &BTreeMap<String, Vec<Ipv4Addr>>) {
    let mut question = [0; 1_500];
    while !state.is_over.load(Ordering::Relaxed) {
        let (length, from) = match socket.recv_from(&mut question) {
            Ok(received) => received,
            // Whoever was answered has gone, or nobody has asked.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => {
                continue;
            }
            Err(error) => panic!("the name server cannot read: {error}"),
        };
        state.asked.fetch_add(1, Ordering::Relaxed);
        if state.is_silent.load(Ordering::Relaxed) {
            continue;
        }
        if let Some(answer) = answer(&question[..length], names) {
            let _ = socket.send_to(&answer, from);
        }
    }
}

/// The answer to a message with one question (RFC 1035, section 4).
fn answer(message: &[u8], names: &BTreeMap<String, Vec<Ipv4Addr>>) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = HEADER_BYTES;
    loop {
        let length = usize::from(*message.get(at)?);
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(message.get(at + 1..at + 1 + length)?).to_lowercase());
        at += 1 + length;
    }
    let question = message.get(HEADER_BYTES..at + 5)?;
    let kind = u16::from_be_bytes([*message.get(at + 1)?, *message.get(at + 2)?]);
    let known = names.get(&labels.join("."));
    let addresses = known.filter(|_| kind == TYPE_A).map_or(&[][..], Vec::as_slice);
    let code = if known.is_some() { 0 } else { NAME_ERROR };
    let count = u16::try_from(addresses.len()).ok()?;

    let mut answer = message[..2].to_vec();
    // A response, authoritative, to a question that may ask for recursion, which is available.
    answer.extend([0x85, 0x80 | code, 0, 1]);
    answer.extend(count.to_be_bytes());
    answer.extend([0; 4]);
    answer.extend(question);
    for address in addresses {
        // The name of the question, class IN, and for no second longer than now.
        answer.extend([0xC0, 0x0C, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 53);
const HEADER_BYTES: usize = 12;
const TYPE_A: u16 = 1;
const NAME_ERROR: u8 = 3;

/// How often it looks whether it is over.
const LOOK: Duration = Duration::from_millis(50);
