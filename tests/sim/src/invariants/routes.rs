//! When all is quiet, the routes are the union of what the nodes' subscribers want.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_state::{ClusterState, NodeId, RouteCount};

use super::Violation;

/// Compares the routes that `name` knows with the filters that each node wants.
pub fn check_routes(
    name: &str,
    state: &ClusterState,
    wanted: &BTreeMap<NodeId, BTreeSet<String>>,
) -> Result<(), Violation> {
    let mut wildcards: BTreeMap<String, BTreeSet<NodeId>> = BTreeMap::new();
    state.routes().for_each_wildcard(|filter, nodes| {
        wildcards.insert(filter.to_owned(), nodes.iter().copied().collect());
    });
    let nobody = BTreeSet::new();
    for (node, filters) in wanted {
        let mut expected = RouteCount::default();
        for filter in filters {
            let is_known = if crate::desk::has_wildcard(filter) {
                expected.wildcard += 1;
                wildcards.get(filter).unwrap_or(&nobody).contains(node)
            } else {
                expected.exact += 1;
                state.routes().leads_to(state.routes().fingerprint(filter), *node)
            };
            if !is_known {
                return Err(format!("{name} does not know that {node} wants {filter}"));
            }
        }
        let count = state.routes().count(*node);
        if count != expected {
            return Err(format!("{name} has {count:?} routes of {node}, which wants {filters:?}"));
        }
    }
    Ok(())
}
