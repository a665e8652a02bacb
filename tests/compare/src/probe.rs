//! Whether somebody can be a client of a broker.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// Connects as an MQTT 3.1.1 client and says goodbye; whether the broker let it in.
///
/// # Errors
/// Nobody is there, or whoever it is does not answer.
pub(crate) fn is_let_in(address: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(CONNECT)?;
    let mut answer = [0; ACCEPTED.len()];
    stream.read_exact(&mut answer)?;
    stream.write_all(DISCONNECT)?;
    Ok(answer == ACCEPTED)
}

/// Clean Session, a Keep Alive of 10 s, and the name "compare".
const CONNECT: &[u8] = b"\x10\x13\x00\x04MQTT\x04\x02\x00\x0a\x00\x07compare";
const ACCEPTED: [u8; 4] = [0x20, 2, 0, 0];
const DISCONNECT: &[u8] = &[0xE0, 0];

/// Longer than a broker that is ready needs.
const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    #[test]
    fn a_broker_says_whether_it_lets_somebody_in() {
        for (answer, expected) in [([0x20, 2, 0, 0], true), ([0x20, 2, 0, 3], false)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let broker = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut connect = [0; CONNECT.len()];
                stream.read_exact(&mut connect).unwrap();
                assert_eq!(usize::from(connect[1]), connect.len() - 2);
                stream.write_all(&answer).unwrap();
                let mut goodbye = Vec::new();
                stream.read_to_end(&mut goodbye).unwrap();
                assert_eq!(goodbye, DISCONNECT);
            });
            assert_eq!(is_let_in(address).unwrap(), expected);
            broker.join().unwrap();
            assert!(is_let_in(address).is_err(), "nobody is there any more");
        }
    }
}
