//! The thread around a driver: its queue, its clock, its end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_schema::cluster::DirectorId;
use parking_lot::Mutex;

use super::driver::{Driver, DriverConfig, Input, Peers, Routes};
use super::feed::Feed;
use super::group::Group;
use super::machine::Machine;
use super::status::GroupState;
use super::writer;
use crate::codec::wire::Address;
use crate::metrics::{Metrics, count};
use crate::peer::Lane;
use crate::storage::Database;
use crate::transport::Transport;

/// Inputs that may wait for a driver.
const INPUTS: usize = 16_384;
/// Bytes of peers' messages that may wait for a driver.
const INPUT_BYTES: usize = 256 << 20;
/// Inputs taken before the groups get to work.
const INPUTS_PER_ROUND: usize = 256;
/// How long a report of a snapshot waits for room in a driver's queue before it is tried again.
const AGAIN: Duration = Duration::from_millis(10);

/// What a driver's thread works with.
pub struct Surroundings {
    /// Its database.
    pub db: Database,
    /// The network.
    pub transport: Arc<dyn Transport>,
    /// The runtime that sends snapshots.
    pub runtime: tokio::runtime::Handle,
}

impl Input {
    /// Bytes of what a peer sent.
    fn weight(&self) -> usize {
        match self {
            Input::Raft(_, messages) => messages.iter().map(|m| m.message.len()).sum(),
            Input::Snapshot(_, _, _, image) => image.len(),
            Input::Forwarded(_, batch) => batch.len(),
            _ => 0,
        }
    }
}

/// What a driver is told beside its queue, because it must not get lost when that is full. Only the
/// latest counts.
#[derive(Default)]
struct News {
    members: Mutex<Option<Arc<Routes>>>,
    attached: AtomicBool,
}

impl News {
    fn take(&self) -> impl Iterator<Item = Input> {
        let members = self.members.lock().take().map(Input::Members);
        let attached = self.attached.swap(false, Ordering::AcqRel).then_some(Input::Attached);
        members.into_iter().chain(attached)
    }
}

/// The inputs of a driver.
#[derive(Clone)]
pub struct Handle {
    inputs: SyncSender<Input>,
    news: Arc<News>,
    metrics: Arc<Metrics>,
    gone: Arc<AtomicBool>,
    bytes: Arc<AtomicUsize>,
}

impl Handle {
    /// Says something; false (and counted) when the driver is behind or gone.
    pub fn say(&self, input: Input) -> bool {
        let weight = input.weight();
        if weight > 0 && self.bytes.fetch_add(weight, Ordering::Relaxed) > INPUT_BYTES {
            self.bytes.fetch_sub(weight, Ordering::Relaxed);
            count(&self.metrics.messages_dropped);
            return false;
        }
        let said = self.try_say(input);
        if !said {
            self.bytes.fetch_sub(weight, Ordering::Relaxed);
        }
        said
    }

    fn try_say(&self, input: Input) -> bool {
        match self.inputs.try_send(input) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                count(&self.metrics.messages_dropped);
                false
            }
            Err(TrySendError::Disconnected(_)) => {
                self.gone.store(true, Ordering::Relaxed);
                false
            }
        }
    }

    /// The members have changed. Never gets lost. Of two who say so at once the one that has read them later is
    /// heard.
    pub fn members(&self, routes: impl FnOnce() -> Routes) {
        let mut members = self.news.members.lock();
        *members = Some(Arc::new(routes()));
        drop(members);
        self.wake();
    }

    /// A sink has been attached. Never gets lost.
    pub fn attached(&self) {
        self.news.attached.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        // A driver whose queue is full is awake, and looks for news in every round.
        let _ = self.inputs.try_send(Input::Written);
    }

    /// Whether the driver has ended.
    pub fn gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

/// The inputs of a driver to come, so that its machines can hold them.
pub fn inputs(metrics: &Arc<Metrics>) -> (Handle, Receiver<Input>) {
    let (inputs, queue) = sync_channel(INPUTS);
    let handle = Handle {
        inputs,
        news: Arc::default(),
        metrics: metrics.clone(),
        gone: Arc::default(),
        bytes: Arc::default(),
    };
    (handle, queue)
}

/// A running driver.
pub struct Running {
    /// Its inputs.
    pub handle: Handle,
    /// What it shows, in the order of its groups.
    pub states: Vec<Arc<GroupState>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Ends the driver and waits for it.
    pub fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A full queue is no reason to be forgotten: wait for room.
            let _ = self.handle.inputs.send(Input::Stop);
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The network as a driver sees it.
struct Network {
    transport: Arc<dyn Transport>,
    runtime: tokio::runtime::Handle,
    driver: Handle,
}

impl Peers for Network {
    fn send(&self, to: DirectorId, lane: Lane, message: Bytes) {
        self.transport.send(to, lane, message);
    }

    fn crowded(&self, to: DirectorId, lane: Lane) -> bool {
        self.transport.crowded(to, lane)
    }

    fn send_snapshot(&self, to: DirectorId, address: Address, header: Bytes, image: Bytes) {
        let (driver, sent) = (self.driver.clone(), self.transport.send_snapshot(to, header, image));
        self.runtime.spawn(async move {
            let result = sent.await;
            if let Err(why) = &result {
                tracing::warn!(director = %to, why, "snapshot not sent");
            }
            while !driver.say(Input::SnapshotSent(address, result.is_ok())) {
                if driver.gone() {
                    break;
                }
                tokio::time::sleep(AGAIN).await;
            }
        });
    }
}

/// Starts a driver on a thread of its own.
pub fn start<M: Machine>(
    config: DriverConfig,
    groups: Vec<Group<M>>,
    around: Surroundings,
    routes: Routes,
    feed: Option<Arc<Feed>>,
    (handle, inputs): (Handle, Receiver<Input>),
) -> std::io::Result<Running> {
    let (name, metrics) = (config.name, config.metrics.clone());
    let Surroundings { db, transport, runtime } = around;
    let disk = writer::start(name, db, metrics, handle.inputs.clone())?;
    let peers = Arc::new(Network { transport, runtime, driver: handle.clone() });
    let driver = Driver::new(config, groups, disk, peers, routes, feed, Duration::ZERO);
    let states = driver.states();
    let shown = states.clone();
    let mut turning = Loop { driver, inputs, handle: handle.clone(), started: Instant::now() };
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        // raft-rs panics on what must never happen; then these replicas stop, visibly.
        let end = catch_unwind(AssertUnwindSafe(|| turning.run()));
        let why = match end {
            Ok(Ok(())) => return,
            Ok(Err(why)) => why,
            Err(panic) => panic_text(panic.as_ref()),
        };
        tracing::error!(driver = name, why, "driver of Raft groups ends");
        shown.iter().for_each(|s| s.halt(&why));
    })?;
    Ok(Running { handle, states, thread: Some(thread) })
}

struct Loop<M: Machine> {
    driver: Driver<M>,
    inputs: Receiver<Input>,
    handle: Handle,
    started: Instant,
}

impl<M: Machine> Loop<M> {
    fn run(&mut self) -> Result<(), String> {
        loop {
            let wait = self.driver.next().saturating_sub(self.started.elapsed());
            let first = self.inputs.recv_timeout(wait);
            let now = self.started.elapsed();
            match first {
                Ok(input) => {
                    let more = std::iter::from_fn(|| self.inputs.try_recv().ok());
                    for input in std::iter::once(input).chain(more.take(INPUTS_PER_ROUND)) {
                        self.handle.bytes.fetch_sub(input.weight(), Ordering::Relaxed);
                        if !self.driver.take(input, now)? {
                            return self.driver.finish(now);
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.driver.finish(now),
            }
            for news in self.handle.news.take() {
                self.driver.take(news, now)?;
            }
            self.driver.poll(self.started.elapsed())?;
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    format!("internal error: {}", text.unwrap_or("panic"))
}
