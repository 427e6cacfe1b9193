//! An authority in memory, for the certificates of many devices.

use std::fmt;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose};

use crate::create::{self, CreateError};

/// Signs certificates with the key of an authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    path: PathBuf,
    certificate: String,
}

impl fmt::Debug for Authority {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A certificate and its private key, in DER (PKCS #8).
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate.
    pub certificate: Vec<u8>,
    /// The private key.
    pub key: Vec<u8>,
}

impl fmt::Debug for Identity {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("certificate", &self.certificate.len()).finish_non_exhaustive()
    }
}

/// A key pair on P-256.
pub struct Keys {
    /// The private key in DER (PKCS #8).
    pub private: Vec<u8>,
    /// The public key as PEM.
    pub public: String,
}

/// Makes a key pair.
///
/// # Errors
/// When the system has no random numbers.
pub fn create_keys() -> Result<Keys, CreateError> {
    let pair = KeyPair::generate().map_err(CreateError::Names)?;
    Ok(Keys { public: pair.public_key_pem(), private: pair.serialize_der() })
}

impl Authority {
    /// Reads `ca.pem` and `ca.key` of the folder.
    ///
    /// # Errors
    /// [`CreateError`].
    pub fn open(dir: &Path) -> Result<Self, CreateError> {
        let (path, key) = (dir.join("ca.pem"), dir.join("ca.key"));
        if !path.exists() {
            return Err(CreateError::NoAuthority(dir.to_owned()));
        }
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|error| CreateError::File { path: path.to_owned(), error })
        };
        let bad = |path: &Path, error: rcgen::Error| CreateError::Authority {
            path: path.to_owned(),
            what: error.to_string(),
        };
        let pair = KeyPair::from_pem(&read(&key)?).map_err(|error| bad(&key, error))?;
        let certificate = read(&path)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, pair).map_err(|error| bad(&path, error))?;
        Ok(Self { issuer, path, certificate })
    }

    /// The same; makes both files first when the folder has none.
    ///
    /// # Errors
    /// [`CreateError`].
    pub fn open_or_create(dir: &Path) -> Result<Self, CreateError> {
        create::ensure_ca(dir)?;
        Self::open(dir)
    }

    /// The certificate of the authority as PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Makes a certificate for a client of this name: its common name.
    ///
    /// # Errors
    /// [`CreateError`].
    pub fn client(&self, name: &str) -> Result<Identity, CreateError> {
        let (made, pair) = self.sign(client(name)?)?;
        Ok(Identity { certificate: made.der().to_vec(), key: pair.serialize_der() })
    }

    /// Makes the same certificate as PEM, of a key that is not kept: a proof that the authority
    /// can sign.
    ///
    /// # Errors
    /// [`CreateError`].
    pub fn proof(&self, name: &str) -> Result<String, CreateError> {
        Ok(self.sign(client(name)?)?.0.pem())
    }

    pub(crate) fn sign(&self, mut params: CertificateParams) -> Result<(rcgen::Certificate, KeyPair), CreateError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        create::set_dates(&mut params, create::DAYS);
        let pair = KeyPair::generate().map_err(CreateError::Names)?;
        let made = params.signed_by(&pair, &self.issuer).map_err(CreateError::Names)?;
        Ok((made, pair))
    }
}

/// A certificate for a client.
///
/// # Errors
/// When the name is not one.
pub(crate) fn client(name: &str) -> Result<CertificateParams, CreateError> {
    create::check_name(name)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}
