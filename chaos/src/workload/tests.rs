//! Clients against servers on loopback.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::{LocalSet, spawn_local};

use super::client::Client;
use super::messages::{Command, Look, Said};
use super::record::{Cohort, LOST_AFTER_MS, Record};
use super::server::Services;
use crate::clock::now_ms;
use crate::scenario::wait::until;

const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

struct Ports {
    echo: SocketAddrV4,
    drip: SocketAddrV4,
    udp: SocketAddrV4,
}

fn v4(address: std::io::Result<SocketAddr>) -> SocketAddrV4 {
    match address.unwrap() {
        SocketAddr::V4(v4) => v4,
        SocketAddr::V6(v6) => panic!("{v6}"),
    }
}

async fn serve(name: &'static str) -> Ports {
    let services = Services::bind(LOCAL, [0; 3]).await.unwrap();
    let ports = Ports {
        echo: v4(services.echo.local_addr()),
        drip: v4(services.drip.local_addr()),
        udp: v4(services.udp.local_addr()),
    };
    spawn_local(async move { services.serve(name).await });
    ports
}

fn open(client: &mut Client, cohort: Cohort, count: u32, target: SocketAddrV4) {
    client.obey(Command::Open { cohort, count, target, over_ms: 10, file: None }).unwrap();
}

fn records(client: &mut Client) -> Vec<Record> {
    match client.obey(Command::Records).unwrap() {
        Said::Records { records, .. } => records,
        other => panic!("{other:?}"),
    }
}

fn look(client: &mut Client, since_ms: u64) -> Look {
    match client
        .obey(Command::Look { since_ms, connected_before_ms: u64::MAX, patience_ms: LOST_AFTER_MS })
        .unwrap()
    {
        Said::Look(look) => look,
        other => panic!("{other:?}"),
    }
}

async fn wait(client: &mut Client, what: &str, mut condition: impl FnMut(&[Record]) -> bool) {
    until(what, Duration::from_secs(10), async || {
        let records = records(client);
        if condition(&records) { Ok(()) } else { anyhow::bail!("{records:?}") }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn every_kind_makes_progress_and_nothing_is_wrong() {
    LocalSet::new()
        .run_until(async {
            let ports = serve("b7").await;
            let mut client = Client::new(1_000);
            open(&mut client, Cohort::Echo, 3, ports.echo);
            open(&mut client, Cohort::Drip, 2, ports.drip);
            open(&mut client, Cohort::Idle, 2, ports.echo);
            open(&mut client, Cohort::Udp, 4, ports.udp);
            wait(&mut client, "all have exchanged", |records| {
                let enough = |r: &Record| match r.cohort {
                    Cohort::Drip | Cohort::Idle => r.progress >= 1,
                    _ => r.progress >= 3,
                };
                records.len() == 11 && records.iter().all(enough)
            })
            .await;
            for record in records(&mut client) {
                assert_eq!(record.backend.as_deref(), Some("b7"), "{record:?}");
                assert!(record.moved_ms.is_empty() && record.corrupt_ms.is_empty(), "{record:?}");
                assert!(record.ended.is_none() && record.local.is_some(), "{record:?}");
                assert!(record.id >= 1_000);
            }
            let Said::Flows { flows } = client.obey(Command::Flows { since_ms: 0 }).unwrap() else {
                panic!()
            };
            assert_eq!(flows.len(), 11);
        })
        .await;
}

#[tokio::test]
async fn idle_ones_speak_when_told() {
    LocalSet::new()
        .run_until(async {
            let ports = serve("b1").await;
            let mut client = Client::new(0);
            open(&mut client, Cohort::Idle, 3, ports.echo);
            wait(&mut client, "all connected", |r| {
                r.len() == 3 && r.iter().all(|r| r.progress == 1)
            })
            .await;
            let since_ms = now_ms() + 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
            assert_eq!(look(&mut client, since_ms).pending, [(Cohort::Idle, 3)]);
            client.obey(Command::Speak { since_ms, over_ms: 20 }).unwrap();
            wait(&mut client, "all have spoken", |r| r.iter().all(|r| r.progress == 2)).await;
            assert_eq!(look(&mut client, since_ms).pending, []);
        })
        .await;
}

#[tokio::test]
async fn young_ones_come_and_go() {
    LocalSet::new()
        .run_until(async {
            let ports = serve("b1").await;
            let mut client = Client::new(0);
            client.obey(Command::Young { per_second: 50, target: ports.echo }).unwrap();
            wait(&mut client, "some have finished", |records| {
                records.iter().filter(|r| r.ended.is_some()).count() >= 3
            })
            .await;
            client.obey(Command::Young { per_second: 0, target: ports.echo }).unwrap();
            wait(&mut client, "all have finished", |r| r.iter().all(|r| r.ended.is_some())).await;
            let records = records(&mut client);
            assert!(records.iter().all(|r| r.lost_ms(now_ms()).is_none()), "{records:?}");
            assert_eq!(look(&mut client, 0).young_lost, 0);
        })
        .await;
}

#[tokio::test]
async fn a_burst_comes_from_the_ports_that_were_chosen() {
    LocalSet::new()
        .run_until(async {
            let target = serve("b1").await.echo;
            let mut client = Client::new(0);
            let reserved = match client.obey(Command::Reserve { count: 20, target }).unwrap() {
                Said::Reserved { locals } => locals,
                other => panic!("{other:?}"),
            };
            assert_eq!(reserved.len(), 20);
            let chosen: Vec<SocketAddrV4> = reserved.iter().copied().step_by(2).collect();
            let ports = chosen.iter().map(|l| l.port()).collect();
            client.obey(Command::Burst { ports, target, over_ms: 50 }).unwrap();
            wait(&mut client, "all have exchanged", |records| {
                records.len() == 10 && records.iter().all(|r| r.progress >= 2)
            })
            .await;
            let mut locals: Vec<_> = records(&mut client).iter().filter_map(|r| r.local).collect();
            locals.sort();
            assert_eq!(locals, chosen);
            assert_eq!(look(&mut client, 0).passing, 10);
            let again = Command::Burst { ports: vec![reserved[1].port()], target, over_ms: 0 };
            let error = client.obey(again).unwrap_err().to_string();
            assert!(error.contains("is not reserved"), "the others were given up: {error}");
        })
        .await;
}

#[tokio::test]
async fn one_that_cannot_be_opened_has_a_port_all_the_same() {
    LocalSet::new()
        .run_until(async {
            let target = v4(TcpListener::bind((LOCAL, 0)).await.unwrap().local_addr());
            let mut client = Client::new(0);
            open(&mut client, Cohort::Echo, 1, target);
            wait(&mut client, "it is refused", |r| r.iter().any(|r| r.ended.is_some())).await;
            let record = &records(&mut client)[0];
            assert_eq!(record.ended.as_ref().unwrap().errno, Some(libc::ECONNREFUSED));
            assert!(record.connected_ms.is_none() && record.local.is_some(), "{record:?}");
        })
        .await;
}

#[tokio::test]
async fn a_server_that_goes_away_is_a_loss() {
    LocalSet::new()
        .run_until(async {
            let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
            let target = v4(listener.local_addr());
            spawn_local(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut bytes = [0; 64];
                stream.read_exact(&mut bytes).await.unwrap();
            });
            let mut client = Client::new(0);
            open(&mut client, Cohort::Echo, 1, target);
            wait(&mut client, "it is lost", |r| r.iter().any(|r| r.lost_ms(now_ms()).is_some()))
                .await;
            assert_eq!(look(&mut client, 0).lost, 1);
        })
        .await;
}

#[tokio::test]
async fn damage_and_another_name_are_seen() {
    LocalSet::new()
        .run_until(async {
            let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
            let target = v4(listener.local_addr());
            spawn_local(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                for (name, damage) in [("b1", false), ("b2", false), ("b1", true)] {
                    let mut bytes = vec![0; super::wire::HEADER];
                    stream.read_exact(&mut bytes).await.unwrap();
                    let length =
                        super::wire::Frame::payload_len(bytes[..].try_into().unwrap()).unwrap();
                    bytes.resize(bytes.len() + length, 0);
                    stream.read_exact(&mut bytes[super::wire::HEADER..]).await.unwrap();
                    let mut frame = super::wire::Frame::decode(&bytes).unwrap();
                    frame.kind = super::wire::Kind::Answer;
                    frame.name = name.into();
                    frame.payload[0] ^= u8::from(damage);
                    stream.write_all(&frame.encode()).await.unwrap();
                }
                std::future::pending::<()>().await;
            });
            let mut client = Client::new(0);
            open(&mut client, Cohort::Echo, 1, target);
            wait(&mut client, "three answers", |r| r.iter().any(|r| r.progress == 3)).await;
            let record = &records(&mut client)[0];
            assert_eq!((record.moved_ms.len(), record.corrupt_ms.len()), (1, 1));
        })
        .await;
}

#[tokio::test]
async fn downloads_are_compared_byte_by_byte() {
    LocalSet::new()
        .run_until(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("bulk.bin");
            let bytes: Vec<u8> = (0..200_000_u32).map(|i| (i * 7) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
            let target = v4(listener.local_addr());
            spawn_local(async move {
                for damage in [None, Some(150_000)] {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let mut body = bytes.clone();
                    if let Some(at) = damage {
                        body[at] ^= 1;
                    }
                    let head = "HTTP/1.1 200 OK\r\nX-Backend: b3\r\n\r\n";
                    stream.write_all(head.as_bytes()).await.unwrap();
                    stream.write_all(&body).await.unwrap();
                    let mut rest = [0; 1024];
                    while stream.read(&mut rest).await.unwrap_or(0) > 0 {}
                }
            });
            let mut client = Client::new(0);
            for expected in 1..=2 {
                let file = Some(path.display().to_string());
                let cohort = Cohort::Bulk;
                client.obey(Command::Open { cohort, count: 1, target, over_ms: 0, file }).unwrap();
                wait(&mut client, "it has ended", |r| {
                    r.iter().filter(|r| r.ended.is_some()).count() == expected
                })
                .await;
            }
            let records = records(&mut client);
            assert!(records.iter().all(|r| r.ended.as_ref().unwrap().error.is_none()));
            assert!(records.iter().all(|r| r.backend.as_deref() == Some("b3")));
            assert!(records[0].corrupt_ms.is_empty());
            assert!(!records[1].corrupt_ms.is_empty());
        })
        .await;
}
