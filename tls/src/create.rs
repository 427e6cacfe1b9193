//! A private authority, and certificates from it.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use sha2::{Digest, Sha256};

use crate::authority::{self, Authority};
use crate::certificate::now;

/// Days for which a certificate is valid: more than 825 are refused by some clients.
pub const DAYS: u64 = 825;
/// Days for which the authority is valid.
const CA_DAYS: u64 = 3_650;
const DAY: u64 = 86_400;
/// Clocks of clients may be late by this many seconds.
const LATE: u64 = 3_600;
/// Longest name of a client.
const MOST_NAME: usize = 64;

/// Files that were made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Certificate of the authority, for clients.
    pub ca: PathBuf,
    /// Certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authority was made, too.
    pub is_new_ca: bool,
}

/// A certificate that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// A file cannot be read or written.
    #[error("cannot use {}: {error}: give another --dir, or its owner the right to write", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The fault.
        error: std::io::Error,
    },
    /// Existing files are not replaced.
    #[error("{} is there already: add --renew to replace it, or give another --dir", .0.display())]
    Exists(PathBuf),
    /// There is no authority.
    #[error("there is no authority in {}: make one with `weir tls create --dir {}`", .0.display(), .0.display())]
    NoAuthority(PathBuf),
    /// The authority cannot sign.
    #[error("{} cannot sign: {what}: restore ca.pem and ca.key, or remove both to make a new authority", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// The fault.
        what: String,
    },
    /// A name is not valid.
    #[error("{0:.80?} is not a name: use letters, digits, `-`, `_`, `.` and `:`, at most {MOST_NAME}")]
    Name(String),
    /// A certificate cannot have these names.
    #[error("cannot make the certificate: {0}: give host names or addresses with --host")]
    Names(rcgen::Error),
}

/// Makes a certificate for a server with these host names and addresses, besides those of this
/// machine; first the authority, if the folder has none. `renew` replaces an existing certificate.
///
/// # Errors
/// [`CreateError`].
pub fn create(dir: &Path, hosts: &[String], renew: bool) -> Result<Created, CreateError> {
    let (certificate, key) = (dir.join("server.pem"), dir.join("server.key"));
    if certificate.exists() && !renew {
        return Err(CreateError::Exists(certificate));
    }
    let mut names: Vec<String> = hosts.iter().map(|host| host.trim_matches(['[', ']']).to_owned()).collect();
    for own in ["localhost", "127.0.0.1", "::1"] {
        if !names.iter().any(|name| name == own) {
            names.push(own.to_owned());
        }
    }
    let mut params = CertificateParams::new(names.clone()).map_err(CreateError::Names)?;
    params.distinguished_name.push(DnType::CommonName, &names[0]);
    // Processes of a fleet call each other with it.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let is_new_ca = ensure_ca(dir)?;
    issue(dir, params, &certificate, &key)?;
    Ok(Created { ca: dir.join("ca.pem"), certificate, key, is_new_ca })
}

/// Makes an authority unless the folder has one; true when it is new.
pub(crate) fn ensure_ca(dir: &Path) -> Result<bool, CreateError> {
    std::fs::create_dir_all(dir).map_err(|error| CreateError::File { path: dir.to_owned(), error })?;
    let (ca, key) = (dir.join("ca.pem"), dir.join("ca.key"));
    let is_new = !ca.exists() && !key.exists();
    if is_new {
        create_ca(&ca, &key)?;
    }
    Ok(is_new)
}

pub(crate) fn check_name(name: &str) -> Result<(), CreateError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    let is_short = !name.is_empty() && name.len() <= MOST_NAME;
    match is_short && name.chars().all(is_plain) && !name.starts_with('.') {
        true => Ok(()),
        false => Err(CreateError::Name(name.to_owned())),
    }
}

/// Makes a certificate for a client of this name, with the authority of the folder.
///
/// # Errors
/// [`CreateError`].
pub fn create_client(dir: &Path, name: &str, renew: bool) -> Result<Created, CreateError> {
    if matches!(name, "ca" | "server") {
        return Err(CreateError::Name(name.to_owned()));
    }
    let params = authority::client(name)?;
    let ca = dir.join("ca.pem");
    if !ca.exists() {
        return Err(CreateError::NoAuthority(dir.to_owned()));
    }
    let (certificate, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
    if certificate.exists() && !renew {
        return Err(CreateError::Exists(certificate));
    }
    issue(dir, params, &certificate, &key)?;
    Ok(Created { ca, certificate, key, is_new_ca: false })
}

fn create_ca(certificate: &Path, key: &Path) -> Result<(), CreateError> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_dates(&mut params, CA_DAYS);
    let pair = KeyPair::generate().map_err(CreateError::Names)?;
    // Clients that trust another authority see that this is not the one.
    let number: String = Sha256::digest(pair.public_key_raw())[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name.push(DnType::CommonName, format!("Weir private CA {number}"));
    let made = params.self_signed(&pair).map_err(CreateError::Names)?;
    write(key, pair.serialize_pem().as_bytes(), 0o600)?;
    write(certificate, made.pem().as_bytes(), 0o644)
}

fn issue(dir: &Path, params: CertificateParams, certificate: &Path, key: &Path) -> Result<(), CreateError> {
    let (made, pair) = Authority::open(dir)?.sign(params)?;
    // A process that reads the files in between finds a pair that does not match, and keeps the
    // previous one.
    write(key, pair.serialize_pem().as_bytes(), 0o600)?;
    write(certificate, made.pem().as_bytes(), 0o644)
}

pub(crate) fn set_dates(params: &mut CertificateParams, days: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let begin = u64::try_from(now()).unwrap_or_default().saturating_sub(LATE);
    params.not_before = epoch + Duration::from_secs(begin);
    params.not_after = epoch + Duration::from_secs(begin + days * DAY);
}

/// Writes a file so that readers find the old or the new content.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), CreateError> {
    let new = path.with_extension("new");
    let written = (|| {
        if new.exists() {
            std::fs::remove_file(&new)?;
        }
        let mut file = File::options().create_new(true).write(true).mode(mode).open(&new)?;
        file.write_all(bytes)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    })();
    written.map_err(|error| CreateError::File { path: path.to_owned(), error })
}
