//! What clients cost the logs of a real cluster, against the model.
//!
//! One client after the other, so that nothing is batched: each op and each change of a route is an entry of its own. Then all at
//! once, where the bounds hold.

use std::time::Instant;

use parking_lot::Mutex;

use super::{
    fleet::{Client, Fleet, Logged, until},
    model,
};
use crate::cluster::GATHER;

const CLIENTS_OF_A_NODE: usize = 8;

#[test]
fn one_node() {
    check(1);
}

#[test]
fn three_nodes() {
    check(3);
}

#[test]
fn five_nodes() {
    check(5);
}

#[test]
fn nine_nodes() {
    check(9);
}

fn check(nodes: usize) {
    // One cluster after the other: together they would lose leaders by themselves.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock();
    let count_all = || {
        let fleet = Fleet::start(nodes);
        sessions_that_end(&fleet)?;
        kept_sessions(&fleet)
    };
    let is_counted = (0..ATTEMPTS).any(|_| count_all().is_ok());
    assert!(is_counted, "a leader was lost each of {ATTEMPTS} times, so nothing can be said");
}

/// A group has elected a leader meanwhile, for the machine is busy: that has entries of its own.
#[derive(Debug)]
struct Elected;

const ATTEMPTS: usize = 4;

/// What has been logged since, by the meta group and by the shards.
fn since(before: Logged, after: Logged) -> Result<(u64, u64), Elected> {
    let counted = (after.meta - before.meta, after.shards - before.shards);
    if after.terms == before.terms { Ok(counted) } else { Err(Elected) }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).expect("it fits")
}

fn sessions_that_end(fleet: &Fleet) -> Result<(), Elected> {
    let name = |number: usize| format!("client-{number}");
    let clients = CLIENTS_OF_A_NODE * fleet.len();

    // The leader of a client's shard says that there is nothing to end.
    let before = fleet.settled();
    let connect = |number| Client::connect(fleet.mqtt(number % fleet.len()), &name(number), true);
    let mut connected: Vec<Client> = (0..clients).map(connect).collect();
    let after = fleet.settled();
    let (meta, shards) = since(before, after)?;
    assert_eq!(meta, 0, "who connects is none of the meta group's business");
    assert_eq!(shards, count(clients) * u64::from(model::TRANSIENT_OPS));

    // A SUBSCRIBE to a topic of one's own is a change of the routes of every node.
    let before = after;
    for (number, client) in connected.iter_mut().enumerate() {
        client.subscribe(&format!("own/{number}"));
    }
    let after = fleet.settled();
    let announced = if fleet.len() > 1 { count(clients) } else { 0 };
    assert_eq!(since(before, after)?, (announced, 0));
    until("every node has every route", || fleet.exact_routes() == (announced, announced));

    forwards(fleet, clients);
    storm(fleet, &mut connected)?;

    let before = fleet.settled();
    connected.into_iter().for_each(Client::disconnect);
    until("every node has forgotten every route", || fleet.exact_routes() == (0, 0));
    let (meta, shards) = since(before, fleet.settled())?;
    assert_eq!(shards, 0, "nothing is left in a shard that would have to end");
    assert!((count(fleet.len()).min(announced)..=2 * announced).contains(&meta), "{meta}");
    Ok(())
}

/// A message goes to another node once, if a subscriber is there.
fn forwards(fleet: &Fleet, clients: usize) {
    let mut publisher = Client::connect(fleet.mqtt(0), "publisher", true);
    let before = fleet.forwarded();
    (0..clients).for_each(|number| publisher.publish(&format!("own/{number}")));
    let elsewhere = (0..clients).filter(|number| number % fleet.len() != 0).count();
    assert_eq!(fleet.forwarded() - before, count(elsewhere));
    let said = model::forwards(fleet.len() as f64, 1.0) * clients as f64;
    assert!((said - elsewhere as f64).abs() < 1e-6, "{elsewhere} forwards for {said}");
    publisher.disconnect();
}

/// All subscribe at once: a node says so in no more entries than it has time for.
fn storm(fleet: &Fleet, connected: &mut [Client]) -> Result<(), Elected> {
    // What was published to them.
    connected.iter_mut().for_each(Client::take);
    let before = fleet.settled();
    let started = Instant::now();
    for (number, client) in connected.iter_mut().enumerate() {
        client.ask_to_subscribe(&format!("other/{number}"));
    }
    connected.iter_mut().for_each(|client| assert_eq!(client.receive().0, 0x90));
    let gathered = started.elapsed().as_millis() / GATHER.as_millis() + 1;
    let (meta, shards) = since(before, fleet.settled())?;
    assert_eq!(shards, 0);
    if fleet.len() == 1 {
        assert_eq!(meta, 0);
    } else {
        let most = u64::try_from(gathered).unwrap_or(u64::MAX).saturating_mul(count(fleet.len()));
        assert!((1..=most.min(count(connected.len()))).contains(&meta), "{meta} entries, at most {most}");
    }
    Ok(())
}

fn kept_sessions(fleet: &Fleet) -> Result<(), Elected> {
    let nodes = fleet.len();
    // A session, a message for it, and its goodbye.
    let step = |what: &str, before: &mut Logged, meta: u32, shards: u32| {
        // What a client does not wait for may come late on a busy machine.
        fleet.await_logged(before.meta + u64::from(meta), before.shards + u64::from(shards));
        let after = fleet.settled();
        assert_eq!(since(*before, after)?, (meta.into(), shards.into()), "{what}");
        *before = after;
        Ok::<(), Elected>(())
    };
    let mut publisher = Client::connect(fleet.mqtt(0), "publisher", true);
    let mut before = fleet.settled();
    let mut kept = Client::connect(fleet.mqtt(nodes - 1), "kept", false);
    step("CONNECT", &mut before, 0, model::KEPT_OPS / 2)?;
    kept.subscribe("kept/own");
    // The shard tells the others, and so does the node.
    let of_node = model::route_changes(nodes as f64) / 2;
    step("SUBSCRIBE", &mut before, 1 + of_node, 1)?;
    let forwarded = fleet.forwarded();
    publisher.publish("kept/own");
    kept.take();
    assert_eq!(fleet.forwarded() - forwarded, u64::from(nodes > 1), "its node hears of it, too");
    step("PUBLISH", &mut before, 0, model::KEPT_MESSAGE_OPS)?;
    kept.disconnect();
    step("DISCONNECT", &mut before, of_node, model::KEPT_OPS / 2)?;
    publisher.disconnect();
    Ok(())
}
