//! The client process: obeys orders on standard input, one JSON object a line, and answers each on
//! standard output. It ends when standard input does.

use std::cell::RefCell;
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::Rng;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::task::{JoinHandle, spawn_local};

use super::book::Book;
use super::burst::Reserved;
use super::messages::{Answer, Command, Order, Said};
use super::record::Cohort;
use super::{bulk, drip, echo, udp};
use crate::clock::now_ms;

/// A client and its connections.
pub struct Client {
    book: Book,
    young: Option<JoinHandle<()>>,
    reserved: Reserved,
    /// The file of downloads, read once.
    file: RefCell<Option<Rc<Vec<u8>>>>,
}

impl Client {
    /// A client without connections; the numbers of its records begin at `base`.
    pub fn new(base: u64) -> Client {
        Client {
            book: Book::new(base),
            young: None,
            reserved: Reserved::default(),
            file: RefCell::new(None),
        }
    }

    /// Obeys. Runs in a `LocalSet`.
    pub fn obey(&mut self, command: Command) -> Result<Said> {
        match command {
            Command::Open { cohort, count, target, over_ms, file } => {
                self.open(cohort, count, target, over_ms, file)?;
            }
            Command::Young { per_second, target } => self.young(per_second, target),
            Command::Speak { since_ms, over_ms } => {
                for speak in self.book.silent_since(since_ms) {
                    spawn_local(async move {
                        tokio::time::sleep(some_of(over_ms)).await;
                        speak.notify_one();
                    });
                }
            }
            Command::Look { since_ms, connected_before_ms, patience_ms } => {
                let look = self.book.look(since_ms, connected_before_ms, patience_ms);
                return Ok(Said::Look(look));
            }
            Command::Reserve { count, target } => {
                // The earlier ones first, so that their ports are free again.
                self.reserved = Reserved::default();
                self.reserved = Reserved::bind(count, target)?;
                return Ok(Said::Reserved { locals: self.reserved.locals() });
            }
            Command::Burst { ports, target, over_ms } => {
                std::mem::take(&mut self.reserved).open(&self.book, &ports, target, over_ms)?;
            }
            Command::Flows { since_ms } => {
                return Ok(Said::Flows { flows: self.book.flows(since_ms) });
            }
            Command::Records => {
                return Ok(Said::Records { now_ms: now_ms(), records: self.book.records() });
            }
        }
        Ok(Said::Done)
    }

    fn open(
        &self,
        cohort: Cohort,
        count: u32,
        target: SocketAddrV4,
        over_ms: u64,
        file: Option<String>,
    ) -> Result<()> {
        let file = match (cohort, file) {
            (Cohort::Bulk, Some(path)) => Some(self.file(&path)?),
            (Cohort::Bulk, None) => anyhow::bail!("downloads need the file that has to come"),
            _ => None,
        };
        for number in 0..count {
            let (book, file) = (self.book.clone(), file.clone());
            spawn_local(async move {
                tokio::time::sleep(some_of(over_ms)).await;
                match (cohort, file) {
                    (Cohort::Bulk, Some(file)) => bulk::run(book, target, file).await,
                    (Cohort::Drip, _) => drip::run(book, target).await,
                    (Cohort::Udp, _) => {
                        let speaker = if number % 2 == 0 {
                            udp::Speaker::Client
                        } else {
                            udp::Speaker::Backend
                        };
                        udp::run(book, target, speaker).await;
                    }
                    _ => echo::run(book, cohort, target).await,
                }
            });
        }
        Ok(())
    }

    fn young(&mut self, per_second: u32, target: SocketAddrV4) {
        if let Some(before) = self.young.take() {
            before.abort();
        }
        let Some(every_us) = 1_000_000_u64.checked_div(u64::from(per_second)) else { return };
        let book = self.book.clone();
        self.young = Some(spawn_local(async move {
            let mut ticks = tokio::time::interval(Duration::from_micros(every_us));
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                spawn_local(echo::run(book.clone(), Cohort::Young, target));
            }
        }));
    }

    fn file(&self, path: &str) -> Result<Rc<Vec<u8>>> {
        if let Some(file) = self.file.borrow().as_ref() {
            return Ok(file.clone());
        }
        let bytes = std::fs::read(path).with_context(|| format!("reading {path}"))?;
        let bytes = Rc::new(bytes);
        *self.file.borrow_mut() = Some(bytes.clone());
        Ok(bytes)
    }
}

fn some_of(over_ms: u64) -> Duration {
    Duration::from_millis(rand::rng().random_range(0..=over_ms))
}

/// Reads orders until standard input ends. Runs in a `LocalSet`.
pub async fn main(base: u64) -> Result<()> {
    let mut client = Client::new(base);
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut out = tokio::io::stdout();
    while let Some(line) = lines.next_line().await? {
        let order: Order =
            serde_json::from_str(&line).with_context(|| format!("this is no order: {line}"))?;
        let said = client.obey(order.command)?;
        let mut answer = serde_json::to_vec(&Answer { number: order.number, said })?;
        answer.push(b'\n');
        out.write_all(&answer).await?;
        out.flush().await?;
    }
    Ok(())
}
