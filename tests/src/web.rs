//! A web server for a test, in a namespace of the lab.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::lab::Lab;
use crate::run::Background;

/// Starts nginx on `addr:port`; it serves the folder `www` and writes nowhere else. `limits` are
/// directives for the server.
pub fn nginx(
    lab: &Lab,
    netns: &str,
    www: &Path,
    addr: &str,
    port: u16,
    limits: &str,
) -> Result<Background> {
    let here = tempfile::Builder::new().prefix("nginx-").tempdir_in(lab.dir())?.keep();
    let config = here.join("nginx.conf");
    fs::write(&config, configuration(&here, www, &format!("{addr}:{port}"), limits))?;
    let mut command = lab.command_in(netns, "nginx");
    // Without -e it begins its errors in /var/log.
    command.arg("-e").arg(here.join("error.log")).arg("-c").arg(&config);
    Background::start(&mut command)
}

fn configuration(here: &Path, www: &Path, listen: &str, limits: &str) -> String {
    let (www, here) = (www.display(), here.display());
    // Debian's nginx is built to keep its temporary folders in /var/lib.
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {here}/{kind}; "))
        .collect();
    format!(
        "daemon off; user root; worker_processes 1; pid {here}/pid; lock_file {here}/lock;\n\
         error_log {here}/error.log; events {{ worker_connections 256; }}\n\
         http {{ access_log off; {temp}\n\
         server {{ listen {listen}; root {www}; {limits} }} }}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_outside_of_its_folder() {
        let text = configuration(Path::new("/tmp/here"), Path::new("/tmp/www"), "10.0.0.1:80", "");
        for word in ["pid", "lock_file", "error_log"] {
            assert!(text.contains(&format!("{word} /tmp/here/")), "{word}: {text}");
        }
        assert_eq!(text.matches("_temp_path /tmp/here/").count(), 5, "{text}");
        assert!(text.contains("access_log off"), "{text}");
    }
}
