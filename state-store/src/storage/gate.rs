//! For tests: a disk that stalls or breaks on command.

use parking_lot::{Condvar, Mutex};

use std::sync::Arc;

/// What becomes of writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Gate {
    /// They pass.
    #[default]
    Open,
    /// They wait.
    Stalled,
    /// They fail, also those that wait.
    Broken,
}

/// Shared by all clones of a database.
#[derive(Clone, Default)]
pub struct Gated {
    inner: Arc<(Mutex<Gate>, Condvar)>,
}

impl Gated {
    /// From now on.
    pub fn set(&self, gate: Gate) {
        *self.inner.0.lock() = gate;
        self.inner.1.notify_all();
    }

    /// Waits while stalled.
    pub fn pass(&self) -> Result<(), &'static str> {
        let mut gate = self.inner.0.lock();
        while *gate == Gate::Stalled {
            self.inner.1.wait(&mut gate);
        }
        if *gate == Gate::Broken { Err("the disk is broken") } else { Ok(()) }
    }
}
