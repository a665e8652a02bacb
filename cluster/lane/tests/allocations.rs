//! What must not allocate for each frame, does not: writing frames into a batch, checking and reading them.

use std::alloc::System;

use flotilla_lane::{Batch, BatchWriter, Forwarded, Frame, LastPublisher};
use flotilla_mqtt::{QoS, Timestamp, Transit, session::ClientId};
use flotilla_state::LogIndex;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const FRAMES: usize = 400;

#[test] // One test, for allocations are counted in the whole process.
fn frames_do_not_allocate() {
    let publisher = ClientId::new("publisher");
    let message = Transit::new(
        "plant/hall-7/machine-12/temperature",
        b"\x01\x01",
        &[7; 256],
        QoS::AtLeastOnce,
        false,
        Some(Timestamp::from_millis(90_000)),
        publisher.as_ref(),
        None,
    );
    let mut writer = BatchWriter::new();
    // The first batch makes room for those after it.
    assert_eq!(write(&mut writer, &message).len(), FRAMES);
    let region = Region::new(ALLOCATOR);
    let batch = write(&mut writer, &message);
    assert!(allocations(&region) <= 2, "the batch is one allocation: {:?}", region.change());

    let bytes = batch.bytes().clone();
    let region = Region::new(ALLOCATOR);
    let batch = Batch::decode(bytes).expect("it was written");
    let mut last = LastPublisher::default();
    let mut size = 0;
    for frame in batch.frames() {
        let Frame::Publish { message, .. } = frame else { panic!("{frame:?}") };
        size += message.transit(Timestamp::ORIGIN, last.of(message.publisher)).size();
    }
    assert_eq!(size, FRAMES * message.size());
    assert!(allocations(&region) <= 1, "the publisher, once: {:?}", region.change());
}

fn write(writer: &mut BatchWriter, message: &Transit<'_>) -> Batch {
    for _ in 0..FRAMES {
        let message = Forwarded::new(message, Timestamp::ORIGIN);
        writer.push(&Frame::Publish { stamp: LogIndex(1), message });
    }
    writer.take().expect("there are frames")
}

fn allocations(region: &Region<'_, System>) -> usize {
    let change = region.change();
    change.allocations + change.reallocations
}
