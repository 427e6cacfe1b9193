//! Connections of gRPC clients.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::Service;

use crate::{Client, ClientStream};

/// Time for the connection and its handshake.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens encrypted connections for a channel. Its endpoint has the scheme `http`, as the channel
/// has nothing to encrypt then.
#[derive(Debug, Clone)]
pub struct Connector(Client);

impl Connector {
    /// Uses the authorities and the certificate of `client`.
    pub fn new(client: Client) -> Self {
        Self(client)
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<ClientStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let client = self.0.clone();
        Box::pin(async move {
            let host = uri.host().ok_or_else(|| io::Error::other("the address has no host"))?.to_owned();
            let port = uri.port_u16().unwrap_or(443);
            let opened = async {
                let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
                stream.set_nodelay(true)?;
                client.connect(&host, stream).await
            };
            match tokio::time::timeout(PATIENCE, opened).await {
                Ok(stream) => stream.map(TokioIo::new),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        })
    }
}

/// The fault of a handshake with a server among an error and its causes, with its cure.
pub fn explain(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let found = error
            .downcast_ref::<rustls::Error>()
            .or_else(|| inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()));
        if let Some(error) = found {
            return Some(cure(error));
        }
        next = error.source();
    }
    None
}

fn cure(error: &rustls::Error) -> String {
    use rustls::{AlertDescription as Alert, CertificateError as Fault, Error};
    match error {
        Error::InvalidCertificate(Fault::UnknownIssuer | Fault::BadSignature) => {
            "its certificate is not from a known authority: name the file of its CA (--ca, WEIR_CA)".into()
        }
        Error::InvalidCertificate(Fault::NotValidForName | Fault::NotValidForNameContext { .. }) => {
            format!("its certificate is for another name ({error}): use a name of the certificate in the address")
        }
        Error::InvalidCertificate(Fault::Expired | Fault::ExpiredContext { .. }) => {
            "its certificate has expired: renew it at the server (`weir tls create --renew`)".into()
        }
        Error::InvalidCertificate(Fault::ApplicationVerificationFailure) => {
            "it has another certificate than the file of `tls.certificate`: is it another process?".into()
        }
        Error::InvalidMessage(_) => "it does not speak TLS: use http:// in the address".into(),
        Error::AlertReceived(Alert::CertificateRequired) => "it asks for a client certificate".into(),
        Error::AlertReceived(alert) => format!("it refuses the handshake ({alert:?})"),
        error => format!("the handshake failed: {error}"),
    }
}
