//! The client processes of a run: one in each client namespace, obeying orders.

use std::net::SocketAddrV4;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::command::{command, in_netns};
use crate::lab::backends::{BULK_PORT, DRIP_PORT, ECHO_PORT, UDP_PORT};
use crate::lab::describe::Machine;
use crate::lab::plan::VIPS;
use crate::lab::spawn::OWN_SHARE;
use crate::router::paths::{self, Paths};
use crate::router::trace::Incoming;
use crate::workload::messages::{Answer, Command, Flow, Look, Order, Said};
use crate::workload::record::{Cohort, Record, Transport};

/// The numbers of each client's records begin at a multiple of this.
const BASE: u64 = 10_000_000;
const DEADLINE: Duration = Duration::from_secs(30);

/// Where a kind of connection goes.
pub fn target(cohort: Cohort) -> SocketAddrV4 {
    match cohort {
        Cohort::Drip => SocketAddrV4::new(VIPS[0], DRIP_PORT),
        Cohort::Bulk => SocketAddrV4::new(VIPS[0], BULK_PORT),
        Cohort::Udp => SocketAddrV4::new(VIPS[1], UDP_PORT),
        Cohort::Echo | Cohort::Idle | Cohort::Young => SocketAddrV4::new(VIPS[0], ECHO_PORT),
    }
}

/// A port that is reserved for a burst.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// Which client process has it.
    pub client: usize,
    /// The address it is bound to.
    pub local: SocketAddrV4,
    /// The director that the router would send its connection to.
    pub director: String,
}

/// Connections, each with the index of its client process.
pub type Flows = Vec<(usize, Flow)>;

/// All client processes.
pub struct Clients(Vec<ClientProcess>);

struct ClientProcess {
    /// Its name: the router's interface towards it has it too.
    name: String,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    number: u64,
    // Ends with us.
    _child: Child,
}

impl ClientProcess {
    fn start(machine: &Machine, index: u64, log: &Path) -> Result<ClientProcess> {
        let me = std::env::current_exe().context("the path of this program")?.display().to_string();
        let base = (index * BASE).to_string();
        let complaints =
            std::fs::File::create(log).with_context(|| format!("making {}", log.display()))?;
        // In a session of its own (so without a process group of ours), as everything of the lab is.
        let mut argv = OWN_SHARE.map(str::to_owned).to_vec();
        argv.extend(in_netns(&machine.netns, &[&me, "client", "--base", &base]));
        let mut child = command(&argv)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(complaints)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start the client {}", machine.name))?;
        Ok(ClientProcess {
            name: machine.name.clone(),
            stdin: child.stdin.take().context("it is piped")?,
            lines: BufReader::new(child.stdout.take().context("it is piped")?).lines(),
            number: 0,
            _child: child,
        })
    }

    async fn ask(&mut self, command: Command) -> Result<Said> {
        self.number += 1;
        let mut line = serde_json::to_vec(&Order { number: self.number, command })?;
        line.push(b'\n');
        let exchange = async {
            self.stdin.write_all(&line).await?;
            loop {
                let answer = self.lines.next_line().await?;
                let answer =
                    answer.with_context(|| format!("the client {} has ended", self.name))?;
                let answer: Answer =
                    serde_json::from_str(&answer).context("the client's answer")?;
                // An answer to an earlier order came after its deadline.
                if answer.number >= self.number {
                    return Ok(answer.said);
                }
            }
        };
        match tokio::time::timeout(DEADLINE, exchange).await {
            Ok(said) => said,
            Err(_) => bail!("the client {} does not answer within {DEADLINE:?}", self.name),
        }
    }
}

impl Clients {
    /// Starts one in each client namespace; what they complain about goes to `logs`.
    pub fn start(machines: &[Machine], logs: &Path) -> Result<Clients> {
        let start = |(index, machine): (usize, &Machine)| {
            let dir = logs.join(&machine.name);
            std::fs::create_dir_all(&dir)?;
            ClientProcess::start(machine, index as u64, &dir.join("client.log"))
        };
        machines.iter().enumerate().map(start).collect::<Result<_>>().map(Clients)
    }

    /// Opens connections of a kind, shared among the clients.
    pub async fn open(
        &mut self,
        cohort: Cohort,
        count: u32,
        over_ms: u64,
        file: Option<&Path>,
    ) -> Result<()> {
        let clients = self.0.len() as u32;
        for (index, client) in (0..).zip(&mut self.0) {
            let count = count / clients + u32::from(index < count % clients);
            let file = file.map(|f| f.display().to_string());
            let target = target(cohort);
            client.ask(Command::Open { cohort, count, target, over_ms, file }).await?;
        }
        Ok(())
    }

    /// From now on opens so many young connections a second, all clients together.
    pub async fn young(&mut self, per_second: u32) -> Result<()> {
        let each = per_second.div_ceil(self.0.len() as u32);
        for client in &mut self.0 {
            client.ask(Command::Young { per_second: each, target: target(Cohort::Young) }).await?;
        }
        Ok(())
    }

    /// Binds sockets for a burst, and asks the router where their connections would go.
    pub async fn reserve(&mut self, router: &str, count: u32) -> Result<Vec<Port>> {
        let clients = self.0.len() as u32;
        let target = target(Cohort::Young);
        let mut all = Vec::new();
        for (client, process) in self.0.iter_mut().enumerate() {
            let count = count.div_ceil(clients);
            let locals = match process.ask(Command::Reserve { count, target }).await? {
                Said::Reserved { locals } => locals,
                other => bail!("an unexpected answer: {other:?}"),
            };
            let flow = |(id, local): (usize, &SocketAddrV4)| Flow {
                id: id as u64,
                transport: Transport::Tcp,
                local: *local,
                remote: target,
            };
            let flows: Vec<Flow> = locals.iter().enumerate().map(flow).collect();
            let mut paths = paths::ask(router, &process.name, &flows).await?;
            all.extend(flows.iter().filter_map(|f| {
                Some(Port { client, local: f.local, director: paths.remove(&f.id)? })
            }));
        }
        Ok(all)
    }

    /// Opens short connections from ports that were reserved, evenly over a time.
    pub async fn burst(&mut self, chosen: &[Port], over_ms: u64) -> Result<()> {
        for (index, process) in self.0.iter_mut().enumerate() {
            let ours = chosen.iter().filter(|p| p.client == index);
            let ports = ours.map(|p| p.local.port()).collect();
            let target = target(Cohort::Young);
            process.ask(Command::Burst { ports, target, over_ms }).await?;
        }
        Ok(())
    }

    /// Makes idle connections speak that have not since then.
    pub async fn speak(&mut self, since_ms: u64, over_ms: u64) -> Result<()> {
        for client in &mut self.0 {
            client.ask(Command::Speak { since_ms, over_ms }).await?;
        }
        Ok(())
    }

    /// How things are, all clients together.
    pub async fn look(
        &mut self,
        since_ms: u64,
        connected_before_ms: u64,
        patience_ms: u64,
    ) -> Result<Look> {
        let mut all = Look::default();
        for client in &mut self.0 {
            let look = Command::Look { since_ms, connected_before_ms, patience_ms };
            match client.ask(look).await? {
                Said::Look(look) => {
                    all.open += look.open;
                    all.lost += look.lost;
                    all.passing += look.passing;
                    all.young_lost += look.young_lost;
                    all.overdue_ms = all.overdue_ms.max(look.overdue_ms);
                    all.pending.extend(look.pending);
                }
                other => bail!("an unexpected answer: {other:?}"),
            }
        }
        Ok(all)
    }

    /// The connections that are open, or have ended since then.
    pub async fn flows(&mut self, since_ms: u64) -> Result<Flows> {
        let mut all = Flows::new();
        for (client, process) in self.0.iter_mut().enumerate() {
            match process.ask(Command::Flows { since_ms }).await? {
                Said::Flows { flows } => all.extend(flows.into_iter().map(|f| (client, f))),
                other => bail!("an unexpected answer: {other:?}"),
            }
        }
        Ok(all)
    }

    /// These by the router's interface that they come in by.
    pub fn incoming(&self, flows: &Flows) -> Incoming {
        let of = |client| flows.iter().filter(move |(of, _)| *of == client).map(|(_, flow)| *flow);
        let each = self.0.iter().enumerate();
        each.map(|(client, process)| (process.name.clone(), of(client).collect())).collect()
    }

    /// The router's choice of path for each of these.
    pub async fn paths(&self, router: &str, flows: &Flows) -> Result<Paths> {
        let mut all = Paths::new();
        for (interface, flows) in self.incoming(flows) {
            all.extend(paths::ask(router, &interface, &flows).await?);
        }
        Ok(all)
    }

    /// Everything that is remembered, and when it was told.
    pub async fn records(&mut self) -> Result<(u64, Vec<Record>)> {
        let (mut at, mut all) = (0, Vec::new());
        for client in &mut self.0 {
            match client.ask(Command::Records).await? {
                Said::Records { now_ms, records } => {
                    at = at.max(now_ms);
                    all.extend(records);
                }
                other => bail!("an unexpected answer: {other:?}"),
            }
        }
        Ok((at, all))
    }
}
