//! Sockets that systemd passes on (`LISTEN_FDS`).

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use broker::Socket;
use listenfd::ListenFd;

/// The sockets that were passed on to this process, each with its name.
pub(super) struct Passed {
    sockets: ListenFd,
    names: Vec<String>,
}

impl Passed {
    /// Takes them from the environment, once for each process and before it has threads: the
    /// variables are removed, so that a child does not take the sockets for its own.
    pub(super) fn take() -> Self {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names = names.split(':').map(str::to_owned).collect();
        Self { sockets: ListenFd::from_env(), names }
    }

    /// Returns the socket of this name, with its address; a Unix socket has none.
    ///
    /// # Errors
    /// When there is none, or none that listens.
    pub(super) fn socket(&mut self, name: &str) -> anyhow::Result<(Socket, Option<SocketAddr>)> {
        let count = self.sockets.len();
        let at = (0..count).find(|at| self.names.get(*at).is_some_and(|found| found == name)).with_context(|| {
            let names = self.names.iter().take(count).cloned().collect::<Vec<_>>().join(", ");
            let names = if count == 0 { "it passes on none".to_owned() } else { format!("it passes on: {names}") };
            format!(
                "systemd passes on no socket {name:?} ({names}): set `FileDescriptorName={name}` in the socket unit"
            )
        })?;
        if let Ok(Some(listener)) = self.sockets.take_unix_listener(at) {
            listener.set_nonblocking(true).context("prepare a socket")?;
            return Ok((tokio::net::UnixListener::from_std(listener)?.into(), None));
        }
        let listener = self.sockets.take_tcp_listener(at).with_context(|| {
            format!("the socket {name:?} of systemd does not accept connections: use `ListenStream=`")
        })?;
        let listener = listener.with_context(|| format!("two listeners have the address systemd:{name}"))?;
        listener.set_nonblocking(true).context("prepare a socket")?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let address = listener.local_addr().context("ask for a listener's address")?;
        ensure!(address.port() != 0, "the socket {name:?} of systemd is not bound: use `ListenStream=`");
        Ok((listener.into(), Some(address)))
    }
}
