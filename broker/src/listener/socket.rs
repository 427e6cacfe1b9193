//! Sockets that connections are accepted from.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Connections that may wait to be accepted: a fleet reconnects all at once.
const BACKLOG: i32 = 4096;
/// The address of all clients of Unix sockets. They are one source, that of this machine.
pub(crate) const THIS_MACHINE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Binds an address for [`crate::Broker::run`].
///
/// # Errors
/// The errors of the operating system.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = if address.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Binds a path for [`crate::Broker::run`], with the permissions `mode`. A socket that a process
/// left there is replaced; the file is removed when the socket is dropped.
///
/// # Errors
/// [`ErrorKind::AddrInUse`] when a process listens there, [`ErrorKind::AlreadyExists`] when there
/// is a file that is not a socket, and the errors of the operating system.
pub fn bind_unix(path: &Path, mode: u32) -> io::Result<Socket> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(ErrorKind::AlreadyExists.into()),
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => return Err(ErrorKind::AddrInUse.into()),
        _ => {}
    }
    // Under another name until it has its permissions. Renaming replaces what is there.
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().ok_or(ErrorKind::InvalidInput)?);
    name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(name);
    if let Err(error) = std::fs::remove_file(&temporary)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error);
    }
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&socket2::SockAddr::unix(&temporary)?)?;
    let named = std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(mode))
        .and_then(|()| socket.listen(BACKLOG))
        .and_then(|()| std::fs::rename(&temporary, path));
    if let Err(error) = named {
        std::fs::remove_file(&temporary).ok();
        return Err(error);
    }
    let listener = UnixListener::from_std(socket.into())?;
    Ok(Socket(Kind::Unix(listener, Some(PathOnDisk(path.to_owned())))))
}

/// A socket that listens.
#[derive(Debug)]
pub struct Socket(Kind);

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    /// With the path, if it is ours to remove.
    Unix(UnixListener, Option<PathOnDisk>),
}

/// Removes the file of a socket when it is dropped.
#[derive(Debug)]
struct PathOnDisk(PathBuf);

impl Drop for PathOnDisk {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(%error, path = %self.0.display(), "cannot remove the file of a socket");
        }
    }
}

impl From<TcpListener> for Socket {
    fn from(listener: TcpListener) -> Self {
        Self(Kind::Tcp(listener))
    }
}

impl From<UnixListener> for Socket {
    /// The file stays: another process has made it.
    fn from(listener: UnixListener) -> Self {
        Self(Kind::Unix(listener, None))
    }
}

/// An accepted connection.
#[derive(Debug)]
pub(crate) enum Plain {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Returns the address, with the port that the system chose; `None` for a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Tcp(listener) => listener.local_addr().ok(),
            Kind::Unix(..) => None,
        }
    }

    /// Returns the address as in the configuration: `127.0.0.1:1883` or `unix:/run/weir.sock`.
    pub fn text(&self) -> String {
        match &self.0 {
            Kind::Tcp(listener) => listener.local_addr().map(|address| address.to_string()).unwrap_or_default(),
            Kind::Unix(_, Some(path)) => format!("unix:{}", path.0.display()),
            Kind::Unix(listener, None) => {
                let address = listener.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname()).unwrap_or(Path::new(""));
                format!("unix:{}", path.display())
            }
        }
    }

    /// True for a Unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self.0, Kind::Unix(..))
    }

    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Plain, SocketAddr)>> {
        match &self.0 {
            Kind::Tcp(listener) => listener.poll_accept(cx).map_ok(|(stream, peer)| (Plain::Tcp(stream), peer)),
            Kind::Unix(listener, _) => {
                listener.poll_accept(cx).map_ok(|(stream, _)| (Plain::Unix(stream), THIS_MACHINE))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_replaces_one_that_was_left_and_no_other_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weir.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left by a process that was killed");
        let socket = bind_unix(&path, 0o600).unwrap();
        assert_eq!(socket.text(), format!("unix:{}", path.display()));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(bind_unix(&path, 0o600).unwrap_err().kind(), ErrorKind::AddrInUse);
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        drop(socket);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it is removed");
        std::fs::write(&path, "a text").unwrap();
        assert_eq!(bind_unix(&path, 0o600).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"a text");
    }
}
