//! Downloads from nginx: each byte is compared as it comes, and the whole by its hash.

use std::net::SocketAddrV4;
use std::rc::Rc;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::book::{Book, Page};
use super::echo::connect;
use super::record::{Cohort, Transport};
use crate::clock::now_ms;
use crate::lab::backends::BULK_PATH;

/// nginx paces by whole seconds of its clock: it sends in bursts about a second apart.
pub const GAP_MS: u64 = 1_000;

/// Downloads the file once.
pub async fn run(book: Book, target: SocketAddrV4, file: Rc<Vec<u8>>) {
    let page = book.open(Cohort::Bulk, Transport::Tcp, target);
    let Some(stream) = connect(&page, target).await else { return };
    match download(&page, stream, &file).await {
        Ok(()) => page.note(|r| r.finished(now_ms())),
        Err(Broken::System(error)) => page.broke("downloading", &error),
        Err(Broken::Content(what)) => page.failed(what),
    }
}

/// Why a download broke.
enum Broken {
    /// The system says so.
    System(std::io::Error),
    /// What came is not what should have.
    Content(String),
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Broken {
        Broken::System(error)
    }
}

async fn download(page: &Page, mut stream: TcpStream, file: &[u8]) -> Result<(), Broken> {
    let request = format!("GET {BULK_PATH} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    let body_from = loop {
        let got = stream.read(&mut chunk).await?;
        if got == 0 {
            return Err(Broken::Content("closed before an answer".into()));
        }
        progress(page);
        head.extend_from_slice(&chunk[..got]);
        if let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let text = String::from_utf8_lossy(&head[..body_from]).into_owned();
    if !text.starts_with("HTTP/1.1 200") {
        let first = text.lines().next().unwrap_or_default();
        return Err(Broken::Content(format!("nginx answered {first}")));
    }
    if let Some(name) = text.lines().find_map(|l| l.strip_prefix("X-Backend: ")) {
        page.note(|r| r.answered_by(name.trim(), now_ms()));
    }
    let mut received = Received { page, file, at: 0, sum: Sha256::new() };
    received.take(&head[body_from..]);
    while received.at < file.len() {
        let got = stream.read(&mut chunk).await?;
        if got == 0 {
            let (came, all) = (received.at, file.len());
            return Err(Broken::Content(format!("closed after {came} of {all} bytes")));
        }
        progress(page);
        received.take(&chunk[..got]);
    }
    if received.sum.finalize() != Sha256::digest(file) {
        page.note(|r| r.corrupt(now_ms()));
    }
    Ok(())
}

fn progress(page: &Page) {
    let now = now_ms();
    page.note(|r| r.progress(now, now + GAP_MS));
}

struct Received<'a> {
    page: &'a Page,
    file: &'a [u8],
    at: usize,
    sum: Sha256,
}

impl Received<'_> {
    fn take(&mut self, bytes: &[u8]) {
        self.sum.update(bytes);
        if self.file.get(self.at..self.at + bytes.len()) != Some(bytes) {
            self.page.note(|r| r.corrupt(now_ms()));
        }
        self.at += bytes.len();
    }
}
