//! Which clients something is to be done for.

/// A list of clients, each at most once.
#[derive(Debug)]
pub(super) struct WorkList {
    clients: Vec<usize>,
    /// The list before, whose storage is used again.
    spare: Vec<usize>,
    is_listed: Vec<bool>,
}

impl WorkList {
    /// For clients with numbers below `count`.
    pub(super) fn new(count: usize) -> Self {
        Self { clients: Vec::new(), spare: Vec::new(), is_listed: vec![false; count] }
    }

    #[inline]
    pub(super) fn insert(&mut self, client: usize) {
        if !std::mem::replace(&mut self.is_listed[client], true) {
            self.clients.push(client);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Takes the list, which is empty then. It must come back by [`WorkList::put_back`].
    pub(super) fn take(&mut self) -> Vec<usize> {
        for client in &self.clients {
            self.is_listed[*client] = false;
        }
        std::mem::replace(&mut self.clients, std::mem::take(&mut self.spare))
    }

    pub(super) fn put_back(&mut self, mut list: Vec<usize>) {
        list.clear();
        self.spare = list;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_listed_once() {
        let mut work = WorkList::new(3);
        [2, 0, 2].into_iter().for_each(|client| work.insert(client));
        let list = work.take();
        assert_eq!(list, [2, 0]);
        assert!(work.is_empty());
        work.insert(2);
        work.put_back(list);
        assert_eq!(work.take(), [2]);
    }
}
