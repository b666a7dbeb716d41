//! The workers of one interface, with the XDP program that feeds them.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;

use holdfast_schema::config::XdpMode;
use holdfast_schema::flow::Addr;
use parking_lot::Mutex;

use super::counters::IoSnapshot;
use super::lane::Lane;
use super::run::{Control, Worker};
use super::{Beat, PacketCore};
use crate::xdp::{
    AttachedMode, Interface, KernelStatistics, MAX_QUEUES, Socket, SocketConfig, SteerCounters,
    Steering, XdpError, lift_memlock_limit,
};

/// Chunks of packet memory a worker has by default.
pub const DEFAULT_CHUNKS: u32 = 4096;

/// What is needed to start workers.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// The interface.
    pub interface: String,
    /// How many workers, on the receive queues from 0 on.
    pub workers: u16,
    /// How the XDP program is attached.
    pub mode: XdpMode,
    /// Chunks of packet memory a worker, a power of two; see [`DEFAULT_CHUNKS`].
    pub chunks: u32,
    /// Nice value of the workers' threads, if it is to be changed.
    pub nice: Option<i32>,
    /// Where the workers leave their beats, by worker; those beyond its end have memory of their own.
    pub beats: Vec<&'static AtomicU64>,
}

impl PoolConfig {
    /// One worker on `interface`, everything else by default.
    pub fn new(interface: impl Into<String>) -> PoolConfig {
        PoolConfig {
            interface: interface.into(),
            workers: 1,
            mode: XdpMode::Auto,
            chunks: DEFAULT_CHUNKS,
            nice: None,
            beats: Vec::new(),
        }
    }
}

/// Makes a worker go round at once, for instance because an answer lies in its core's queue.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Control>);

impl Waker {
    /// Never blocks.
    pub fn wake(&self) {
        self.0.wake();
    }
}

/// What one worker and its socket have counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct QueueCounters {
    /// What the worker counted.
    pub io: IoSnapshot,
    /// What the kernel counted for its socket.
    pub kernel: KernelStatistics,
}

/// What all workers and the XDP program have counted.
#[derive(Clone, Debug, Default)]
pub struct PoolCounters {
    /// What the XDP program counted.
    pub steer: SteerCounters,
    /// By worker, that is, by receive queue.
    pub queues: Vec<QueueCounters>,
}

#[derive(Debug)]
struct Running {
    control: Arc<Control>,
    socket: Arc<Socket>,
    thread: Option<JoinHandle<()>>,
}

/// Running workers. Dropping it stops them.
#[derive(Debug)]
pub struct Pool {
    workers: Vec<Running>,
    beats: Vec<Arc<Beat>>,
    steering: Mutex<Steering>,
    mode: AttachedMode,
    unserved: u32,
}

impl Pool {
    /// Loads the XDP program, binds a socket to each queue, attaches the program, starts a thread
    /// for each worker. `core` makes the packet core of a worker. On an error nothing is left behind.
    pub fn start<C: PacketCore + 'static>(
        config: &PoolConfig,
        vips: impl IntoIterator<Item = Addr>,
        lips: impl IntoIterator<Item = Addr>,
        mut core: impl FnMut(u32, Waker) -> C,
    ) -> Result<Pool, XdpError> {
        let workers = u32::from(config.workers);
        if workers == 0 || workers > MAX_QUEUES {
            return Err(XdpError::WorkerCount { workers, most: MAX_QUEUES });
        }
        let interface = Interface::usable(&config.interface)?;
        let unserved = unserved_queues(&interface, workers)?;
        let chunk_bytes = interface.chunk_bytes()?;
        if let Err(e) = lift_memlock_limit() {
            tracing::warn!(
                "the limit of locked memory stays as it is: {e}; if sockets fail, set \
                 LimitMEMLOCK=infinity or give CAP_IPC_LOCK"
            );
        }
        let mut steering = Steering::load()?;
        steering.set_addresses(vips, lips)?;

        let chunks = config.chunks.max(64).next_power_of_two();
        let mut beats = Vec::new();
        let mut ready = Vec::new();
        for queue in 0..workers {
            let (socket, rings) =
                Socket::open(&interface, queue, SocketConfig { chunks, chunk_bytes })?;
            steering.add_socket(&socket)?;
            let beat = Arc::new(match config.beats.get(queue as usize) {
                Some(cell) => Beat::into_shared(cell),
                None => Beat::new(),
            });
            beats.push(beat.clone());
            let thread_failed = |source| XdpError::Thread { worker: queue, source };
            let control = Arc::new(Control::new(beat).map_err(thread_failed)?);
            ready.push(Worker {
                lane: Lane::new(rings, control.counters.clone()),
                socket: Arc::new(socket),
                core: core(queue, Waker(control.clone())),
                control,
                nice: config.nice,
            });
        }
        // Every queue has its socket: only now may the program run.
        let mode = steering.attach(&interface, config.mode)?;
        let steering = Mutex::new(steering);
        let mut pool = Pool { workers: Vec::new(), beats, steering, mode, unserved };
        for (worker, queue) in ready.into_iter().zip(0..) {
            let (control, socket) = (worker.control.clone(), worker.socket.clone());
            let thread = std::thread::Builder::new()
                .name(format!("hf-worker-{queue}"))
                .spawn(move || worker.run())
                .map_err(|source| XdpError::Thread { worker: queue, source })?;
            pool.workers.push(Running { control, socket, thread: Some(thread) });
        }
        Ok(pool)
    }

    /// How the program is attached.
    pub fn mode(&self) -> &AttachedMode {
        &self.mode
    }

    /// Receive queues of the interface beyond those of the workers: what they receive for VIPs and
    /// LIPs is dropped. A director with such queues is not ready.
    pub fn unserved_queues(&self) -> u32 {
        self.unserved
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// The workers' beats.
    pub fn beats(&self) -> &[Arc<Beat>] {
        &self.beats
    }

    /// Replaces the steered addresses.
    pub fn set_addresses(
        &self,
        vips: impl IntoIterator<Item = Addr>,
        lips: impl IntoIterator<Item = Addr>,
    ) -> Result<(), XdpError> {
        self.steering.lock().set_addresses(vips, lips)
    }

    /// Throws away what waits in the receive rings (after a stall of the process).
    pub fn discard_rings(&self) {
        self.workers.iter().for_each(|w| w.control.discard());
    }

    /// Why a worker has ended by itself, if one has. Its beats have ended too.
    pub fn failure(&self) -> Option<String> {
        self.workers.iter().find_map(|w| {
            if let Some(failure) = w.control.failure() {
                return Some(failure.to_owned());
            }
            let ended = w.thread.as_ref().is_some_and(JoinHandle::is_finished);
            ended.then(|| format!("queue {}: the worker's thread has panicked", w.socket.queue()))
        })
    }

    /// What has been counted.
    pub fn counters(&self) -> Result<PoolCounters, XdpError> {
        let steer = self.steering.lock().counters()?;
        let queue = |w: &Running| -> Result<QueueCounters, XdpError> {
            let kernel = w.socket.statistics().map_err(|source| XdpError::Socket {
                queue: w.socket.queue(),
                what: "reading its statistics (XDP_STATISTICS)",
                source,
            })?;
            Ok(QueueCounters { io: w.control.counters.snapshot(), kernel })
        };
        let queues = self.workers.iter().map(queue).collect::<Result<_, _>>()?;
        Ok(PoolCounters { steer, queues })
    }

    /// Ends the workers and detaches the program.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.workers.iter().for_each(|w| w.control.stop());
        for worker in &mut self.workers {
            // A panic of the thread was reported by its panic message and by `failure`.
            let _ = worker.thread.take().map(JoinHandle::join);
        }
    }
}

/// Checks that there are queues for the workers; how many are left over.
fn unserved_queues(interface: &Interface, workers: u32) -> Result<u32, XdpError> {
    // A driver that does not say has at least one; binding fails on a queue that is not there.
    let queues = interface.receive_queues().unwrap_or(workers);
    if queues < workers {
        return Err(XdpError::TooFewQueues {
            interface: interface.name().to_owned(),
            has: queues,
            wanted: workers,
        });
    }
    if queues > workers {
        let name = interface.name();
        tracing::warn!(
            interface = name,
            "{queues} receive queues but {workers} worker(s): traffic for VIPs and LIPs on the \
             other queues is dropped; set `workers = {queues}` in the node file, or \
             `ethtool -L {name} combined {workers}`"
        );
    }
    Ok(queues - workers)
}
