//! What must not allocate for each frame, does not: writing frames into a batch, checking and reading them.

use std::alloc::System;

use flotilla_lane::{Batch, BatchWriter, Forwarded, Frame, LastPublisher};
use flotilla_mqtt::{QoS, Timestamp, Transit, session::ClientId};
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
    let written = allocations(|| drop(write(&mut writer, &message)));
    assert!(written <= 3, "the batch, its count of owners, the memory for the next one: {written}");

    let bytes = write(&mut writer, &message).bytes().clone();
    let read = allocations(|| {
        let batch = Batch::decode(bytes.clone()).expect("it was written");
        let mut last = LastPublisher::default();
        let mut size = 0;
        for frame in batch.frames() {
            let Frame::Publish { message } = frame else { panic!("{frame:?}") };
            size += message.transit(Timestamp::ORIGIN, last.of(message.publisher)).size();
        }
        assert_eq!(size, FRAMES * message.size());
    });
    assert!(read <= 1, "the publisher, once: {read}");
}

fn write(writer: &mut BatchWriter, message: &Transit<'_>) -> Batch {
    for _ in 0..FRAMES {
        let message = Forwarded::new(message, Timestamp::ORIGIN);
        writer.push(&Frame::Publish { message });
    }
    writer.take().expect("there are frames")
}

/// How often `work` allocates. The thread that waits for the test may allocate in between: the least of several runs counts.
fn allocations(mut work: impl FnMut()) -> usize {
    let count = |_| {
        let region = Region::new(ALLOCATOR);
        work();
        let change = region.change();
        change.allocations + change.reallocations
    };
    (0..10).map(count).min().expect("it ran")
}
