//! Which connections are sent elsewhere while something goes on, be it for a moment: the router's kernel is
//! asked for their paths anew whenever its routes to them change.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::rc::Rc;

use anyhow::{Result, bail};
use tokio::task::JoinSet;

use super::monitor::Watcher;
use super::paths::{self, Paths};
use crate::clock::now_ms;
use crate::workload::messages::Flow;

/// Connections by the router's interface that they come in by.
pub type Incoming = BTreeMap<String, Vec<Flow>>;

/// Another director that a connection was sent to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Elsewhere {
    /// When it was seen first.
    pub at_ms: u64,
    /// The director.
    pub director: String,
}

/// Each connection that was sent to another director than at first, by its number.
pub type Moves = BTreeMap<u64, Elsewhere>;

/// What was seen so far.
#[derive(Default)]
struct Seen {
    incoming: Incoming,
    first: Paths,
    moves: Moves,
    failed: Option<String>,
}

impl Seen {
    fn take(&mut self, paths: &Paths, at_ms: u64) {
        for (id, director) in paths {
            let first = self.first.entry(*id).or_insert_with(|| director.clone());
            if first != director {
                let other = || Elsewhere { at_ms, director: director.clone() };
                self.moves.entry(*id).or_insert_with(other);
            }
        }
    }

    /// The connections to these destinations.
    fn to(&self, destinations: impl Fn(Ipv4Addr) -> bool) -> Incoming {
        let of = |flows: &Vec<Flow>| {
            flows.iter().filter(|f| destinations(*f.remote.ip())).copied().collect()
        };
        self.incoming.iter().map(|(interface, flows)| (interface.clone(), of(flows))).collect()
    }
}

/// Asks while it exists.
pub struct Trace {
    router: String,
    seen: Rc<RefCell<Seen>>,
    // They end with us.
    tasks: JoinSet<()>,
}

impl Trace {
    /// Knows no connections yet, and does not follow the routes.
    pub fn of(router: String) -> Trace {
        Trace { router, seen: Rc::default(), tasks: JoinSet::new() }
    }

    /// From now on it is about these connections.
    pub fn about(&mut self, incoming: Incoming) {
        self.seen.borrow_mut().incoming = incoming;
    }

    /// Somebody else has asked, then.
    pub fn take(&mut self, paths: &Paths, at_ms: u64) {
        self.seen.borrow_mut().take(paths, at_ms);
    }

    /// Asks for those whose paths nobody has asked for yet, so that a change will be seen.
    pub async fn ask_for_new(&mut self) -> Result<()> {
        let (at_ms, mut new) = (now_ms(), self.seen.borrow().incoming.clone());
        for flows in new.values_mut() {
            flows.retain(|f| !self.seen.borrow().first.contains_key(&f.id));
        }
        for (interface, flows) in new {
            let paths = paths::ask(&self.router, &interface, &flows).await?;
            self.take(&paths, at_ms);
        }
        Ok(())
    }

    /// Asks again from now on, whenever routes to these destinations change. Runs in a `LocalSet`.
    pub fn follow(&mut self, routes: Watcher, destinations: Vec<String>) {
        let (router, seen) = (self.router.clone(), self.seen.clone());
        self.tasks.spawn_local(follow(router, seen, routes, destinations));
    }

    /// Who was sent elsewhere so far.
    pub fn moves(&self) -> Result<Moves> {
        let seen = self.seen.borrow();
        match &seen.failed {
            None => Ok(seen.moves.clone()),
            Some(why) => bail!("{why}"),
        }
    }
}

async fn follow(
    router: String,
    seen: Rc<RefCell<Seen>>,
    mut routes: Watcher,
    destinations: Vec<String>,
) {
    loop {
        let changed = routes.changed(&destinations).await;
        if changed.is_empty() {
            return;
        }
        let (at_ms, incoming) =
            (now_ms(), seen.borrow().to(|ip| changed.contains(&ip.to_string())));
        for (interface, flows) in incoming {
            match paths::ask(&router, &interface, &flows).await {
                Ok(paths) => seen.borrow_mut().take(&paths, at_ms),
                Err(error) => seen.borrow_mut().failed = Some(format!("{error:#}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::record::Transport;

    fn paths(list: &[(u64, &str)]) -> Paths {
        list.iter().map(|(id, director)| (*id, (*director).to_owned())).collect()
    }

    #[test]
    fn who_is_sent_elsewhere_and_back_has_moved() {
        let mut trace = Trace::of("r1".into());
        trace.take(&paths(&[(1, "d1"), (2, "d1"), (3, "d2")]), 100);
        assert!(trace.moves().unwrap().is_empty());
        trace.take(&paths(&[(1, "d2"), (2, "d1"), (3, "d2"), (4, "d2")]), 200);
        trace.take(&paths(&[(1, "d1"), (2, "d3"), (4, "d1")]), 300);
        let at = |at_ms, director: &str| Elsewhere { at_ms, director: director.into() };
        let moved = [(1, at(200, "d2")), (2, at(300, "d3")), (4, at(300, "d1"))];
        assert_eq!(trace.moves().unwrap(), Moves::from(moved));
    }

    #[test]
    fn only_those_are_asked_for_whose_routes_have_changed() {
        let flow = |id, remote: &str| Flow {
            id,
            transport: Transport::Tcp,
            local: "10.72.1.2:40000".parse().unwrap(),
            remote: remote.parse().unwrap(),
        };
        let mut trace = Trace::of("r1".into());
        let flows = vec![flow(1, "203.0.113.10:80"), flow(2, "203.0.113.11:80")];
        trace.about([("c1".to_owned(), flows.clone())].into());
        let asked = trace.seen.borrow().to(|ip| ip == Ipv4Addr::new(203, 0, 113, 11));
        assert_eq!(asked, [("c1".to_owned(), vec![flows[1]])].into());
    }
}
