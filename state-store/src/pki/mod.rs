//! Keys and certificates of a cluster.
//!
//! `cluster init` makes the cluster's certificate authority ([`Authority`], EC P-256). A director
//! makes its own key pair ([`DirectorKey`]), which never leaves its machine, and shows a signing
//! request; the authority answers with a certificate that names the director and the cluster
//! (`d7.<cluster id>.holdfast`). Key and certificate chain together are an [`Identity`].
//!
//! A certificate alone opens no door: peers also compare the SHA-256 of its public key
//! ([`Fingerprint`]) with the one pinned in the member list, so that a removed director's
//! certificate is worth nothing although it has not expired.
//!
//! A [`JoinToken`] is what an operator carries to a new machine.

mod authority;
mod files;
mod identity;
mod name;
mod token;

use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

pub use authority::{Authority, Issued};
pub use identity::{DirectorKey, Identity};
pub use name::{ClusterId, director_name, parse_director_name};
pub use token::{JoinToken, TokenError};

use holdfast_schema::cluster::DirectorId;

/// SHA-256 of a public key (SubjectPublicKeyInfo in DER, RFC 5280 section 4.1.2.7).
pub type Fingerprint = [u8; 32];

/// Why something with keys, certificates or their files failed.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A key pair or certificate could not be made.
    #[error("cannot make {what}: {cause}")]
    Make {
        /// What was to be made.
        what: &'static str,
        /// Why not.
        cause: String,
    },
    /// Bytes that are not what they should be.
    #[error("{what} cannot be read: {cause}")]
    Parse {
        /// What was to be read.
        what: &'static str,
        /// Why not.
        cause: String,
    },
    /// Certificate and key do not belong together.
    #[error(
        "the private key does not belong to the certificate; restore both from one backup or join again"
    )]
    KeyMismatch,
    /// The certificate is not good (any more).
    #[error("the certificate is not valid: {0}")]
    Invalid(String),
    /// A file operation failed.
    #[error("{path}: {cause}")]
    File {
        /// Which file.
        path: String,
        /// What failed.
        cause: std::io::Error,
    },
    /// A private key that others can read.
    #[error("{path} can be read by others (mode {mode:03o}); run `chmod 600 {path}`")]
    Permissions {
        /// Which file.
        path: String,
        /// Its mode.
        mode: u32,
    },
}

pub(crate) fn parse_error(what: &'static str, cause: impl std::fmt::Display) -> PkiError {
    PkiError::Parse { what, cause: cause.to_string() }
}

pub(crate) fn make_error(what: &'static str, cause: impl std::fmt::Display) -> PkiError {
    PkiError::Make { what, cause: cause.to_string() }
}

/// SHA-256 of anything.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// What a certificate says about its holder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertificateFacts {
    /// The director and the cluster it names, if it names any.
    pub director: Option<(DirectorId, ClusterId)>,
    /// Its public key.
    pub key_fingerprint: Fingerprint,
    /// Valid from (Unix time, s).
    pub not_before_s: i64,
    /// Valid until (Unix time, s).
    pub not_after_s: i64,
    /// Whether it may sign other certificates.
    pub authority: bool,
}

/// Reads a certificate in DER. Its signature is not judged here.
pub fn inspect(certificate: &CertificateDer<'_>) -> Result<CertificateFacts, PkiError> {
    let (rest, x509) = X509Certificate::from_der(certificate.as_ref())
        .map_err(|e| parse_error("certificate", e))?;
    if !rest.is_empty() {
        return Err(parse_error("certificate", "bytes behind its end"));
    }
    let names = x509.subject_alternative_name().map_err(|e| parse_error("certificate", e))?;
    // Exactly one name: a certificate for two directors would have two answers to "who are you".
    let director = names.and_then(|names| match names.value.general_names.as_slice() {
        [GeneralName::DNSName(name)] => parse_director_name(name),
        _ => None,
    });
    Ok(CertificateFacts {
        director,
        key_fingerprint: sha256(x509.public_key().raw),
        not_before_s: x509.validity().not_before.timestamp(),
        not_after_s: x509.validity().not_after.timestamp(),
        authority: x509.is_ca(),
    })
}

/// A fingerprint as people compare it: 64 hex digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
