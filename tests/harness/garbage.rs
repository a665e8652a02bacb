//! What clients send that mean no good.

use super::{Publish, Version, ack, pingreq, random::Random, subscribe, unsubscribe};

/// Noise, or packets with a few wrong bits.
pub(crate) fn garbage(version: Version, random: &mut Random) -> Vec<u8> {
    let len = 1 + random.below(300);
    if random.once_in(3) {
        return random.bytes(len);
    }
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let id = 1 + u16::try_from(random.below(4)).expect("a small number");
        bytes.extend(match random.below(6) {
            0 => Publish::new("garbage/a", "text").qos(random.pick(&[1, 2]), id).bytes(version),
            1 => Publish::new("garbage/b", "text").bytes(version),
            2 => subscribe(version, id, &[], &[("garbage/#", 1), ("$share/g/garbage/+", 2)]),
            3 => unsubscribe(version, id, &["garbage/#"]),
            4 => ack(random.pick(&[0x40, 0x50, 0x62, 0x70]), id),
            _ => pingreq(),
        });
    }
    for _ in 0..random.below(6) {
        let at = random.below(bytes.len());
        bytes[at] ^= 1 << random.below(8);
    }
    bytes.truncate(1 + random.below(bytes.len()));
    bytes
}
