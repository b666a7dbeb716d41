//! Clients of the drip service: the backend's name, then a byte every two seconds.

use std::net::SocketAddrV4;

use tokio::io::AsyncReadExt;

use super::book::Book;
use super::echo::connect;
use super::record::{Cohort, Transport};
use super::wire::MAX_NAME;
use crate::clock::now_ms;

/// Time between two bytes (ms).
pub const EVERY_MS: u64 = 2_000;

/// Opens a connection and listens to it.
pub async fn run(book: Book, target: SocketAddrV4) {
    let page = book.open(Cohort::Drip, Transport::Tcp, target);
    let Some(mut stream) = connect(&page, target).await else { return };
    let mut name = [0; MAX_NAME];
    if let Err(error) = stream.read_exact(&mut name).await {
        return page.broke("reading", &error);
    }
    page.note(|r| {
        let now = now_ms();
        r.progress(now, now + EVERY_MS);
        r.answered_by(String::from_utf8_lossy(&name).trim_end_matches('\0'), now);
    });
    let mut expected: u8 = 0;
    loop {
        let byte = match stream.read_u8().await {
            Ok(byte) => byte,
            Err(error) => return page.broke("reading", &error),
        };
        let now = now_ms();
        page.note(|r| {
            r.progress(now, now + EVERY_MS);
            if byte != expected {
                r.corrupt(now);
            }
        });
        expected = byte.wrapping_add(1);
    }
}
