//! Asks BIRD, and keeps asking.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};

use super::reply::{MOST_BYTES, Malformed, Parser, Reply};
use super::view::{Exported, bgp_sessions};

/// How long one question may take.
const DEADLINE: Duration = Duration::from_secs(2);

/// How often it is asked while nothing is expected to change.
const CALM: Duration = Duration::from_secs(1);

/// How often it is asked while a change is awaited.
const EAGER: Duration = Duration::from_millis(20);

/// Why BIRD's state is unknown.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BirdError {
    /// No socket, or it broke.
    #[error(
        "BIRD's control socket {path}: {cause} (is bird running, and may this user open the socket?)"
    )]
    Socket {
        /// The socket.
        path: PathBuf,
        /// The cause.
        cause: String,
    },
    /// Not what BIRD says.
    #[error("BIRD's control socket {path} does not speak BIRD's protocol: {cause}")]
    Malformed {
        /// The socket.
        path: PathBuf,
        /// The cause.
        cause: Malformed,
    },
    /// BIRD refused.
    #[error("BIRD refused `{request}`: {answer}")]
    Refused {
        /// What was asked.
        request: String,
        /// What it said.
        answer: String,
    },
}

/// A conversation with BIRD.
pub struct Client {
    path: PathBuf,
    lines: tokio::io::Take<BufReader<UnixStream>>,
    parser: Parser,
}

impl Client {
    /// Connects and reads the greeting.
    pub async fn connect(path: &Path) -> Result<Client, BirdError> {
        let stream = UnixStream::connect(path).await.map_err(|e| socket(path, &e))?;
        let lines = BufReader::new(stream).take(MOST_BYTES as u64);
        let mut client = Client { path: path.to_owned(), lines, parser: Parser::default() };
        client.reply().await?;
        Ok(client)
    }

    /// Asks one question.
    pub async fn ask(&mut self, request: &str) -> Result<Reply, BirdError> {
        let stream = self.lines.get_mut().get_mut();
        let line = format!("{request}\n");
        stream.write_all(line.as_bytes()).await.map_err(|e| socket(&self.path, &e))?;
        let reply = self.reply().await?;
        if !reply.ok() {
            let answer = reply.last().to_owned();
            return Err(BirdError::Refused { request: request.to_owned(), answer });
        }
        Ok(reply)
    }

    async fn reply(&mut self) -> Result<Reply, BirdError> {
        self.lines.set_limit(MOST_BYTES as u64);
        let mut line = Vec::new();
        loop {
            line.clear();
            let n = self
                .lines
                .read_until(b'\n', &mut line)
                .await
                .map_err(|e| socket(&self.path, &e))?;
            if n == 0 {
                return Err(socket(
                    &self.path,
                    &"the connection was closed in the middle of a reply",
                ));
            }
            let text = String::from_utf8_lossy(&line);
            let parsed = self.parser.line(text.trim_end_matches(['\n', '\r']));
            let parsed =
                parsed.map_err(|cause| BirdError::Malformed { path: self.path.clone(), cause })?;
            if let Some(reply) = parsed {
                return Ok(reply);
            }
        }
    }
}

fn socket(path: &Path, cause: &dyn std::fmt::Display) -> BirdError {
    BirdError::Socket { path: path.to_owned(), cause: cause.to_string() }
}

/// Reads what BIRD announces now.
pub async fn exported(path: &Path) -> Result<Exported, BirdError> {
    let ask = async {
        let mut client = Client::connect(path).await?;
        let sessions = bgp_sessions(&client.ask("show protocols").await?);
        let mut exported = Exported { sessions: sessions.len(), ..Exported::default() };
        for (name, established) in sessions {
            if established {
                // A session may vanish between the two questions: then it exports nothing.
                match client.ask(&format!("show route export {name} all")).await {
                    Ok(reply) => {
                        exported.add(&reply);
                        exported.established.push(name);
                    }
                    Err(BirdError::Refused { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(exported)
    };
    match tokio::time::timeout(DEADLINE, ask).await {
        Ok(result) => result,
        Err(_) => Err(socket(path, &format!("no answer within {} s", DEADLINE.as_secs()))),
    }
}

/// The latest view of BIRD, refreshed by a task.
#[derive(Clone)]
pub struct BirdWatch {
    view: watch::Receiver<Arc<Result<Exported, BirdError>>>,
    eager: Arc<AtomicBool>,
    wake: Arc<Notify>,
}

impl BirdWatch {
    /// Starts asking.
    pub fn start(path: PathBuf) -> BirdWatch {
        let unknown = socket(&path, &"not asked yet");
        let (sender, view) = watch::channel(Arc::new(Err(unknown)));
        let (eager, wake) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
        let bird = BirdWatch { view, eager: eager.clone(), wake: wake.clone() };
        tokio::spawn(async move {
            let mut had_failed = false;
            while !sender.is_closed() {
                let result = exported(&path).await;
                match &result {
                    Err(error) if !had_failed => tracing::warn!(%error, "BIRD's state is unknown"),
                    Ok(_) if had_failed => tracing::info!("BIRD answers again"),
                    _ => {}
                }
                had_failed = result.is_err();
                sender.send_replace(Arc::new(result));
                let pause = if eager.load(Ordering::Relaxed) { EAGER } else { CALM };
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = wake.notified() => {}
                }
            }
        });
        bird
    }

    /// What was last seen.
    pub fn latest(&self) -> Arc<Result<Exported, BirdError>> {
        self.view.borrow().clone()
    }

    /// Whether a change is awaited, so that BIRD is asked often.
    pub fn expect_change(&self, awaited: bool) {
        if self.eager.swap(awaited, Ordering::Relaxed) != awaited && awaited {
            self.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    /// A BIRD that knows two questions.
    fn fake_bird(listener: UnixListener, routes: &'static str) {
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (read, mut write) = stream.into_split();
                let mut lines = BufReader::new(read).lines();
                write.write_all(b"0001 BIRD 2.0.12 ready.\n").await.unwrap();
                while let Ok(Some(line)) = lines.next_line().await {
                    let answer = match line.as_str() {
                        "show protocols" => {
                            "2002-Name Proto Table State Since Info\n\
                             1002-r1 BGP --- up 10:00:00 Established\n r2 BGP --- start 10:00:00 Active\n0000 \n"
                        }
                        "show route export r1 all" => routes,
                        _ => "9001 syntax error, unexpected CF_SYM_UNDEFINED\n",
                    };
                    if write.write_all(answer.as_bytes()).await.is_err() {
                        break;
                    }
                }
            }
        });
    }

    #[tokio::test]
    async fn reads_what_is_exported_over_established_sessions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bird.ctl");
        fake_bird(
            UnixListener::bind(&path).unwrap(),
            "1007-203.0.113.10/32 unicast [served4 10:00:00] * (10)\n1012-\tBGP.med: 100\n0000 \n",
        );
        let exported = exported(&path).await.unwrap();
        assert_eq!((exported.sessions, exported.established), (2, vec!["r1".to_owned()]));
        assert_eq!(exported.routes.get(&"203.0.113.10".parse().unwrap()), Some(&100));
        let mut client = Client::connect(&path).await.unwrap();
        assert!(matches!(client.ask("nonsense").await, Err(BirdError::Refused { .. })));
    }

    #[tokio::test]
    async fn a_socket_that_is_not_there_or_breaks_off_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bird.ctl");
        let error = exported(&path).await.unwrap_err();
        assert!(error.to_string().contains("bird.ctl"), "{error}");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(b"0001-BIRD 2.0.12").await;
            }
        });
        let error = exported(&path).await.unwrap_err();
        assert!(error.to_string().contains("closed in the middle"), "{error}");
    }
}
