//! The rules of the founding that are rarely put to the test by chance.

use super::*;

const CLUSTER: ClusterId = ClusterId(7);

fn founder(name: &str, id: u64) -> Founder {
    Founder { name: name.to_owned(), id: NodeId(id) }
}

fn attempt_of_b() -> Attempt {
    let members = vec![founder("b", 2), founder("c", 3), founder("d", 4)];
    Attempt { cluster_id: CLUSTER, initiator: members[0].clone(), members }
}

fn node(me: Founder, kept: Option<Attempt>, pristine: bool) -> Bootstrap {
    let second = Duration::from_secs(1);
    let options = BootstrapOptions { expect: 3, core: true, pause: second, attempt_timeout: second * 10 };
    let mut node = Bootstrap::new(options, me, kept, None, pristine, [1; 32]);
    node.handle_discovered(["a", "b", "c", "d", "e"].map(str::to_owned).to_vec());
    node
}

fn seen(node: Founder, attempt: Option<Attempt>) -> Seen {
    Seen { node, core: true, created: None, pristine: true, attempt }
}

/// What the node puts out at `second`, but for greetings.
fn actions(node: &mut Bootstrap, second: u64) -> Vec<Action> {
    std::iter::from_fn(|| node.poll(Duration::from_secs(second)))
        .filter(|action| !matches!(action, Action::Hello { .. }))
        .collect()
}

#[test]
fn a_cluster_is_created_only_when_every_founding_member_is_confirmed() {
    let mut b = node(founder("b", 2), Some(attempt_of_b()), false);
    assert_eq!(actions(&mut b, 0), []);
    // A majority holds the first entries. It could elect a leader, but the third may have lost its disk.
    b.handle_raft(false, true, [NodeId(3)].into());
    assert_eq!(actions(&mut b, 2), []);
    // It has, and is asked under its new identifier; bound to another attempt it does not confirm this one.
    b.handle_hello(Duration::from_secs(2), 1, "d", seen(founder("d", 5), None));
    let asked = Action::Grant { address: "d".to_owned(), to: NodeId(5), attempt: attempt_of_b() };
    assert_eq!(actions(&mut b, 4), vec![asked.clone()]);
    let refused = GrantAnswer { granted: false, bound_to: None };
    b.handle_grant_answer(Duration::from_secs(4), NodeId(5), CLUSTER, &refused);
    assert_eq!(actions(&mut b, 6), vec![asked.clone()]);
    let granted = GrantAnswer { granted: true, bound_to: None };
    b.handle_grant_answer(Duration::from_secs(6), NodeId(5), CLUSTER, &granted);
    assert_eq!(actions(&mut b, 8), [asked, Action::Create(CLUSTER)]);

    let mut b = node(founder("b", 2), Some(attempt_of_b()), false);
    b.handle_raft(false, true, [NodeId(3), NodeId(4)].into());
    assert_eq!(actions(&mut b, 0), [Action::Create(CLUSTER)]);
}

#[test]
fn a_grant_is_kept_first_and_given_to_one_attempt_only() {
    let mut c = node(founder("c", 3), None, true);
    assert!(c.handle_grant_request(Duration::ZERO, attempt_of_b()).granted);
    assert_eq!(actions(&mut c, 0), [Action::Keep(Some(attempt_of_b()))]);
    assert!(c.handle_grant_request(Duration::ZERO, attempt_of_b()).granted);
    let other = Attempt { cluster_id: ClusterId(8), ..attempt_of_b() };
    let answer = c.handle_grant_request(Duration::ZERO, other.clone());
    assert_eq!(answer, GrantAnswer { granted: false, bound_to: Some(attempt_of_b()) });
    assert_eq!(actions(&mut c, 0), []);
    // What has decided to join a cluster, or is none of the members, founds no other.
    let second = Duration::from_secs(1);
    let options = BootstrapOptions { expect: 3, core: true, pause: second, attempt_timeout: second };
    let mut joining = Bootstrap::new(options, founder("c", 3), None, Some(ClusterId(9)), true, [1; 32]);
    assert!(!joining.handle_grant_request(Duration::ZERO, other.clone()).granted);
    assert!(!node(founder("x", 9), None, true).handle_grant_request(Duration::ZERO, other).granted);
}

#[test]
fn only_answers_to_later_questions_unbind_a_node() {
    let replaced = || seen(founder("b", 20), None);
    let mut c = node(founder("c", 3), None, true);
    actions(&mut c, 0); // The first round.
    c.handle_grant_request(Duration::ZERO, attempt_of_b());
    actions(&mut c, 0);
    c.handle_hello(Duration::ZERO, 1, "b", replaced());
    assert_eq!(actions(&mut c, 0), [], "asked before the node was bound");
    actions(&mut c, 1); // The second round.
    c.handle_hello(Duration::from_secs(1), 2, "b", seen(founder("b", 2), Some(attempt_of_b())));
    assert_eq!(actions(&mut c, 1), [], "the initiator has the attempt");
    c.handle_hello(Duration::from_secs(1), 2, "b", replaced());
    assert_eq!(actions(&mut c, 1), [Action::Keep(None)], "its disk is lost");

    // Not when the node holds entries of the attempt.
    let mut c = node(founder("c", 3), Some(attempt_of_b()), false);
    c.handle_hello(Duration::ZERO, 5, "b", replaced());
    c.handle_release(CLUSTER);
    assert!(!actions(&mut c, 0).contains(&Action::Keep(None)));
}

#[test]
fn nodes_that_could_found_two_clusters_found_none() {
    let mut a = node(founder("a", 1), None, true);
    a.options.expect = 2;
    actions(&mut a, 0);
    for (address, id) in [("b", 2), ("c", 3), ("d", 4), ("e", 5)] {
        a.handle_hello(Duration::ZERO, 1, address, seen(founder(address, id), None));
    }
    let warning = Warning::ExpectTooSmall { expect: 2, found: 5 };
    a.awaited.clear();
    a.rounds_completed = 1;
    assert_eq!(actions(&mut a, 0), [Action::Warn(warning)]);
    assert_eq!(actions(&mut a, 1), []);
}
