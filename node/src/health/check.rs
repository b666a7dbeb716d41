//! One check of one backend.

use std::net::SocketAddr;
use std::time::Duration;

use holdfast_schema::config::HealthCheck;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The most bytes read while waiting for a status line.
const MOST_STATUS_BYTES: usize = 1024;

/// Checks a backend; an error says why it failed, in a few words.
pub async fn check(
    how: &HealthCheck,
    backend: SocketAddr,
    timeout: Duration,
) -> Result<(), String> {
    let attempt = async {
        match how {
            HealthCheck::None => Ok(()),
            HealthCheck::Tcp { port } => connect(backend, *port).await.map(drop),
            HealthCheck::Http { port, path, host, status } => {
                let stream = connect(backend, *port).await?;
                let fallback = backend.to_string();
                http(stream, path, host.as_deref().unwrap_or(&fallback), *status).await
            }
        }
    };
    match tokio::time::timeout(timeout, attempt).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {} ms", timeout.as_millis())),
    }
}

async fn connect(mut backend: SocketAddr, port: Option<u16>) -> Result<TcpStream, String> {
    if let Some(port) = port {
        backend.set_port(port);
    }
    TcpStream::connect(backend).await.map_err(|e| format!("connect to {backend}: {e}"))
}

async fn http(
    mut stream: TcpStream,
    path: &str,
    host: &str,
    expected: Option<u16>,
) -> Result<(), String> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: holdfast-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(|e| format!("send: {e}"))?;
    let mut answer = Vec::with_capacity(MOST_STATUS_BYTES);
    let line_end = |bytes: &[u8]| bytes.iter().position(|b| *b == b'\n');
    while line_end(&answer).is_none() {
        if answer.len() >= MOST_STATUS_BYTES {
            return Err("the answer does not begin with an HTTP status line".to_owned());
        }
        let mut chunk = [0u8; 256];
        let n = stream.read(&mut chunk).await.map_err(|e| format!("receive: {e}"))?;
        if n == 0 {
            return Err("the connection was closed before an answer".to_owned());
        }
        answer.extend_from_slice(&chunk[..n]);
    }
    let line = String::from_utf8_lossy(&answer[..line_end(&answer).unwrap_or(0)]).into_owned();
    let status = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split_whitespace().nth(1))
        .and_then(|code| code.parse::<u16>().ok())
        .ok_or("the answer does not begin with an HTTP status line")?;
    let good = match expected {
        Some(code) => status == code,
        None => (200..400).contains(&status),
    };
    if good { Ok(()) } else { Err(format!("HTTP status {status}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const SOON: Duration = Duration::from_secs(5);

    async fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0u8; 512];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        address
    }

    fn http(status: Option<u16>) -> HealthCheck {
        HealthCheck::Http { port: None, path: "/up".to_owned(), host: None, status }
    }

    #[tokio::test]
    async fn tcp_wants_a_connection() {
        let tcp = HealthCheck::Tcp { port: None };
        let address = server("").await;
        assert_eq!(check(&tcp, address, SOON).await, Ok(()));
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert!(check(&tcp, closed, SOON).await.unwrap_err().contains("refused"));
    }

    #[tokio::test]
    async fn http_wants_the_right_status() {
        let good = server("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(check(&http(None), good, SOON).await, Ok(()));
        assert_eq!(check(&http(Some(200)), good, SOON).await.unwrap_err(), "HTTP status 204");
        let bad = server("HTTP/1.1 503 Busy\r\n\r\n").await;
        assert_eq!(check(&http(None), bad, SOON).await.unwrap_err(), "HTTP status 503");
        let odd = server("SSH-2.0-OpenSSH\r\n").await;
        assert!(check(&http(None), odd, SOON).await.unwrap_err().contains("status line"));
        let shut = server("").await;
        assert!(check(&http(None), shut, SOON).await.unwrap_err().contains("closed"));
    }

    #[tokio::test]
    async fn silence_is_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let error = check(&http(None), address, Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(error, "no answer within 50 ms");
    }
}
