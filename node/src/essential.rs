//! Work that the daemon cannot do without: when it ends by itself, the daemon ends.

use std::future::Future;

use tokio::sync::mpsc;

/// Held by a thread or task for as long as it works. Its end, a panic included, ends the daemon,
/// unless that is stopping anyway: a director that silently replicates nothing is worse than none.
pub struct Essential {
    what: &'static str,
    stopping: Box<dyn Fn() -> bool + Send>,
    fail: mpsc::Sender<anyhow::Error>,
}

impl Essential {
    /// For the work called `what`. Its end is reported to `fail` unless `stopping` says so.
    pub fn new(
        what: &'static str,
        stopping: impl Fn() -> bool + Send + 'static,
        fail: mpsc::Sender<anyhow::Error>,
    ) -> Self {
        Essential { what, stopping: Box::new(stopping), fail }
    }

    /// Runs a task under it.
    pub fn spawn(self, work: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(async move {
            let essential = self;
            work.await;
            drop(essential);
        });
    }
}

impl Drop for Essential {
    fn drop(&mut self) {
        if !(self.stopping)() {
            // Full: another failure ends the daemon already.
            let _ = self.fail.try_send(anyhow::anyhow!("{} has ended by itself", self.what));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_is_told_also_a_panic_but_not_while_stopping() {
        let (fail, mut failures) = mpsc::channel(4);
        Essential::new("one", || true, fail.clone()).spawn(async {});
        Essential::new("two", || false, fail.clone()).spawn(async { panic!("provoked") });
        drop(fail);
        let told = failures.recv().await.map(|e| e.to_string());
        assert_eq!(told.as_deref(), Some("two has ended by itself"));
        assert!(failures.recv().await.is_none(), "nothing else failed");
    }
}
