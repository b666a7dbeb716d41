//! The last cluster state, kept beside the store: for `--install-rules`, and for a cold start in
//! which the store has nothing yet. It holds no secrets (the CA's key is never written here).

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_schema::cluster::ClusterState;

use crate::node::Node;

/// Changes come in bursts; the file is written at most this often.
const PAUSE: Duration = Duration::from_millis(500);

fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("last-cluster.json")
}

/// The last state; none: there is none, or it cannot be read by this version.
pub fn read(data_dir: &Path) -> Option<ClusterState> {
    let path = file(data_dir);
    let text = std::fs::read(&path).ok()?;
    match serde_json::from_slice(&text) {
        Ok(cluster) => Some(cluster),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the remembered configuration is not readable");
            None
        }
    }
}

/// Writes it so that either the old or the new one is there whatever happens.
pub fn write(data_dir: &Path, cluster: &ClusterState) -> std::io::Result<()> {
    let (path, fresh) = (file(data_dir), data_dir.join("last-cluster.json.new"));
    let mut options = std::fs::OpenOptions::new();
    let mut to = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    to.write_all(&serde_json::to_vec(cluster)?)?;
    to.sync_all()?;
    std::fs::rename(fresh, path)
}

/// Keeps the file up to date for ever.
pub async fn run(node: Arc<Node>) {
    let mut changed = node.store.cluster();
    loop {
        let now = changed.borrow_and_update().clone();
        if let Some(cluster) = now {
            let dir = node.spec.data_dir.clone();
            let written = tokio::task::spawn_blocking(move || write(&dir, &cluster)).await;
            if let Ok(Err(error)) = written {
                tracing::warn!(%error, "the configuration cannot be remembered in the data directory");
            }
        }
        tokio::time::sleep(PAUSE).await;
        if changed.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announce::wish::tests::cluster;

    #[test]
    fn what_is_written_is_read_and_garbage_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).is_none());
        let mut state = cluster();
        state.ca_key = "secret".to_owned();
        write(dir.path(), &state).unwrap();
        assert!(!std::fs::read_to_string(file(dir.path())).unwrap().contains("secret"));
        state.ca_key.clear();
        assert_eq!(read(dir.path()), Some(state));
        std::fs::write(file(dir.path()), "{").unwrap();
        assert!(read(dir.path()).is_none());
    }
}
