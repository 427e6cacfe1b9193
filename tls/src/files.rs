//! PEM files, with errors for the operator.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// Largest file that is read: some thousand authorities.
const MOST_BYTES: u64 = 4 << 20;

/// A file, and the key or flag that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// As the operator writes it: `tls.certificate`, `--ca`.
    pub key: String,
    /// The file.
    pub path: PathBuf,
}

impl Named {
    /// Names a file by its key.
    pub fn new(key: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self { key: key.into(), path: path.into() }
    }

    fn error(&self, what: impl Into<String>) -> FileError {
        FileError { key: self.key.clone(), path: self.path.clone(), what: what.into() }
    }
}

/// A file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` = {}: {what}", path.display())]
pub struct FileError {
    /// The key or flag.
    pub key: String,
    /// The file.
    pub path: PathBuf,
    /// The fault, and its cure.
    pub what: String,
}

/// Reads the bytes of a file.
pub(crate) fn read(file: &Named) -> Result<Vec<u8>, FileError> {
    let failed = |error: std::io::Error| {
        let cure = match error.kind() {
            ErrorKind::NotFound => "give the path of a PEM file (`weir tls create` makes some)",
            ErrorKind::PermissionDenied => "let the user of the process read it",
            _ => "give a PEM file",
        };
        file.error(format!("cannot read it: {error}: {cure}"))
    };
    let found = std::fs::metadata(&file.path).map_err(failed)?;
    if !found.is_file() {
        return Err(file.error("it is not a file: give the path of a PEM file"));
    }
    if found.len() > MOST_BYTES {
        return Err(file.error(format!("it has {} bytes: give a PEM file of at most {MOST_BYTES}", found.len())));
    }
    std::fs::read(&file.path).map_err(failed)
}

/// Reads every certificate of a file, in its order.
///
/// # Errors
/// [`FileError`]; a file without a certificate is one.
pub fn read_certificates(file: &Named) -> Result<Vec<CertificateDer<'static>>, FileError> {
    parse_certificates(file, &read(file)?)
}

pub(crate) fn parse_certificates(file: &Named, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let found = found.map_err(|error| file.error(format!("its PEM cannot be read: {error}: give the file anew")))?;
    if found.is_empty() {
        let begins = "it begins with -----BEGIN CERTIFICATE-----";
        let what = match contains(bytes, b"PRIVATE KEY-----") {
            true => format!("it holds a private key and no certificate: give the file of the certificate; {begins}"),
            false => format!("it holds no certificate: give a PEM file; {begins}"),
        };
        return Err(file.error(what));
    }
    Ok(found)
}

pub(crate) fn parse_key(file: &Named, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, FileError> {
    PrivateKeyDer::from_pem_slice(bytes).map_err(|error| {
        let what = match error {
            _ if contains(bytes, b"ENCRYPTED") => {
                "the key is encrypted: write it without a passphrase (`openssl pkey -in OLD -out NEW`)".to_owned()
            }
            pem::Error::NoItemsFound if contains(bytes, b"BEGIN CERTIFICATE-----") => {
                "it holds a certificate and no private key: give the file of the key".to_owned()
            }
            pem::Error::NoItemsFound => {
                "it holds no private key: give a PEM file; it has a line -----BEGIN PRIVATE KEY-----".to_owned()
            }
            error => format!("its PEM cannot be read: {error}: give the file anew"),
        };
        file.error(what)
    })
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// A chain with its key, which were checked against each other.
pub(crate) fn certified_key(
    (certificate, chain): (&Named, &[u8]),
    (key, key_bytes): (&Named, &[u8]),
) -> Result<CertifiedKey, FileError> {
    let chain = parse_certificates(certificate, chain)?;
    let key_der = parse_key(key, key_bytes)?;
    CertifiedKey::from_der(chain, key_der, &crate::provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => key.error(format!(
            "the key does not belong to the first certificate of {} (`{}`): give the key that was made with it, and \
             the server's own certificate first in the chain",
            certificate.path.display(),
            certificate.key
        )),
        rustls::Error::InvalidCertificate(error) => {
            certificate.error(format!("its first certificate cannot be used: {error:?}: give another"))
        }
        error => key.error(format!("the key cannot be used: {error}: give one of ECDSA (P-256), Ed25519 or RSA")),
    })
}

/// Checks that a certificate and a key can be read and belong together.
///
/// # Errors
/// [`FileError`].
pub fn check_pair(certificate: &Named, key: &Named) -> Result<(), FileError> {
    certified_key((certificate, &read(certificate)?), (key, &read(key)?)).map(drop)
}

pub(crate) fn parse_roots(file: &Named, bytes: &[u8]) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    for certificate in parse_certificates(file, bytes)? {
        let add = |error| file.error(format!("a certificate cannot be an authority: {error}: give that of a CA"));
        roots.add(certificate).map_err(add)?;
    }
    Ok(roots)
}

/// True when other users than the owner and its group can read the file.
pub fn is_world_readable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o007 != 0)
}
