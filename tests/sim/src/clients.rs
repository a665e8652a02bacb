//! The clients of a node: they come, subscribe, publish and go, all under a few names.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use flotilla_mqtt::session::ClientId;
use rand::{RngExt as _, rngs::StdRng};
use tokio::time::sleep;

use crate::{claims::Input, node::Process};

/// What clients subscribe to.
pub const FILTERS: [&str; 8] = ["a", "b", "a/b", "c/d", "a/+", "#", "+/b", "c/#"];

const TOPICS: [&str; 6] = ["a", "b", "a/b", "c/d", "c", "d"];

const CLIENTS: [&str; 6] = ["ada", "bob", "cas", "dan", "eve", "fay"];

/// Lets clients act as long as the process lives.
pub async fn run(process: Arc<Process>, mut random: StdRng) {
    let mut messages = random.random::<u64>() & !0xffff_ffff;
    loop {
        sleep(Duration::from_millis(random.random_range(10..120))).await;
        if process.shared().is_busy.load(Ordering::Relaxed) && process.is_serving() {
            act(&process, &mut random, &mut messages);
        }
    }
}

fn act(process: &Process, random: &mut StdRng, messages: &mut u64) {
    let connected = process.desk.lock().connected();
    let someone = (!connected.is_empty()).then(|| connected[random.random_range(0..connected.len())].clone());
    match (random.random_range(0..100), someone) {
        (0..25, _) | (_, None) => {
            let Some(client) = ClientId::new(CLIENTS[random.random_range(0..CLIENTS.len())]) else { return };
            process.claims.put(Input::Claim(client));
        }
        (25..40, Some(client)) => disconnect(process, &client),
        (40..60, Some(client)) => {
            let filter = FILTERS[random.random_range(0..FILTERS.len())];
            process.desk.lock().toggle(&client, filter);
            process.wake.notify_one();
        }
        (_, Some(client)) => {
            // A burst, so that batches meet in the lanes.
            for _ in 0..random.random_range(1..5) {
                *messages += 1;
                process.publish(client.as_str(), TOPICS[random.random_range(0..TOPICS.len())], *messages);
            }
        }
    }
}

fn disconnect(process: &Process, client: &ClientId) {
    if let Some(tenure) = process.desk.lock().remove(client) {
        process.claims.put(Input::Release(client.clone(), tenure));
        process.wake.notify_one();
    }
}
