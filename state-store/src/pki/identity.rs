//! A director's key pair and certificate, in memory and in its data directory.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use holdfast_schema::cluster::DirectorId;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::server::ParsedCertificate;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use super::authority::VALID;
use super::{ClusterId, Fingerprint, PkiError, files, inspect, make_error, parse_error, sha256};

const KEY_FILE: &str = "director.key";
const CHAIN_FILE: &str = "director.crt";

/// A director's key pair (EC P-256). It never leaves the machine that made it.
pub struct DirectorKey {
    pair: KeyPair,
}

impl std::fmt::Debug for DirectorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectorKey").finish_non_exhaustive()
    }
}

impl DirectorKey {
    /// Makes a new one.
    pub fn generate() -> Result<DirectorKey, PkiError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|e| make_error("a key pair", e))?;
        Ok(DirectorKey { pair })
    }

    /// Reads one from PEM (PKCS #8).
    pub fn from_pem(pem: &str) -> Result<DirectorKey, PkiError> {
        let pair = KeyPair::from_pem(pem).map_err(|e| parse_error("the private key", e))?;
        Ok(DirectorKey { pair })
    }

    /// Its PEM. A secret.
    pub fn pem(&self) -> String {
        self.pair.serialize_pem()
    }

    /// Fingerprint of its public half.
    pub fn fingerprint(&self) -> Fingerprint {
        sha256(&self.pair.subject_public_key_info())
    }

    /// A signing request (DER, RFC 2986): the public key, and the proof that we have the other half.
    pub fn request(&self) -> Result<Vec<u8>, PkiError> {
        let params = CertificateParams::default();
        let request =
            params.serialize_request(&self.pair).map_err(|e| make_error("a signing request", e))?;
        Ok(request.der().to_vec())
    }

    /// Keeps the key in `folder`, readable by its owner only.
    ///
    /// A joiner does this before it shows its request: should it die between the answer and
    /// [`Identity::save`], it can join again with the key that has been pinned.
    pub fn save(&self, folder: &Path) -> Result<(), PkiError> {
        files::make_folder(folder)?;
        files::write(&folder.join(KEY_FILE), self.pem().as_bytes(), true)
    }

    /// The key kept in `folder`, none if there is none.
    pub fn load(folder: &Path) -> Result<Option<DirectorKey>, PkiError> {
        let pem = files::read_private(&folder.join(KEY_FILE))?;
        pem.map(|pem| DirectorKey::from_pem(&pem)).transpose()
    }
}

/// Who a director is: its key pair and the certificate chain that names it.
pub struct Identity {
    director: DirectorId,
    cluster: ClusterId,
    fingerprint: Fingerprint,
    authority_fingerprint: Fingerprint,
    not_after_s: i64,
    chain: Vec<CertificateDer<'static>>,
    key_der: Vec<u8>,
    chain_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("director", &self.director)
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Joins a key with the chain (PEM: the director's certificate, then the authority's) that was
    /// issued for it. The chain's signatures and dates are judged by [`Identity::verify`].
    pub fn new(key: &DirectorKey, chain_pem: &str) -> Result<Identity, PkiError> {
        let what = "the certificate chain";
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(chain_pem.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(|e| parse_error(what, e))?;
        let [leaf, authority] = chain.as_slice() else {
            let count = chain.len();
            return Err(parse_error(what, format!("{count} certificates instead of two")));
        };
        let facts = inspect(leaf)?;
        let (director, cluster) =
            facts.director.ok_or_else(|| parse_error(what, "it does not name a director"))?;
        if facts.key_fingerprint != key.fingerprint() {
            return Err(PkiError::KeyMismatch);
        }
        let authority = inspect(authority)?;
        if !authority.authority {
            return Err(parse_error(what, "the second certificate is not one of an authority"));
        }
        Ok(Identity {
            director,
            cluster,
            fingerprint: facts.key_fingerprint,
            authority_fingerprint: authority.key_fingerprint,
            not_after_s: facts.not_after_s,
            key_der: key.pair.serialize_der(),
            chain,
            chain_pem: chain_pem.to_owned(),
        })
    }

    /// The director it names.
    pub fn director(&self) -> DirectorId {
        self.director
    }

    /// The cluster it names.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Fingerprint of its own key: the one pinned in the member list.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Fingerprint of the authority's key: the one in tokens.
    pub fn authority_fingerprint(&self) -> Fingerprint {
        self.authority_fingerprint
    }

    /// PEM of the chain.
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// When the certificate ends (Unix time, s).
    pub fn not_after_s(&self) -> i64 {
        self.not_after_s
    }

    /// Whether a third of the certificate's time is over, so that it should be renewed.
    pub fn renewal_due(&self, now: SystemTime) -> bool {
        let left = Duration::from_secs(self.not_after_s.try_into().unwrap_or(0));
        now + VALID * 2 / 3 > UNIX_EPOCH + left
    }

    /// Judges signature and dates of the chain at `now`.
    pub fn verify(&self, now: SystemTime) -> Result<(), PkiError> {
        let invalid = |e: rustls::Error| PkiError::Invalid(e.to_string());
        let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        let leaf = ParsedCertificate::try_from(&self.chain[0]).map_err(invalid)?;
        let provider = rustls::crypto::ring::default_provider();
        verify_server_cert_signed_by_trust_anchor(
            &leaf,
            &self.roots()?,
            &[],
            now,
            provider.signature_verification_algorithms.all,
        )
        .map_err(invalid)
    }

    /// The authority as the only root of trust.
    pub(crate) fn roots(&self) -> Result<RootCertStore, PkiError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.chain[1].clone()).map_err(|e| PkiError::Invalid(e.to_string()))?;
        Ok(roots)
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.clone()
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key_der.clone().into())
    }

    /// A secret that only this director has, the same after each restart, different by `purpose`.
    pub(crate) fn derived_secret(&self, purpose: &str) -> [u8; 32] {
        let mut input = purpose.as_bytes().to_vec();
        input.push(0);
        input.extend_from_slice(&self.key_der);
        sha256(&input)
    }

    /// Keeps key and chain in `folder`; the key readable by its owner only.
    pub fn save(&self, folder: &Path) -> Result<(), PkiError> {
        let pair = KeyPair::try_from(self.key_der.as_slice())
            .map_err(|e| parse_error("the private key", e))?;
        DirectorKey { pair }.save(folder)?;
        files::write(&folder.join(CHAIN_FILE), self.chain_pem.as_bytes(), false)
    }

    /// The identity kept in `folder`; none unless both key and chain are there.
    pub fn load(folder: &Path) -> Result<Option<Identity>, PkiError> {
        let Some(chain_pem) = files::read(&folder.join(CHAIN_FILE))? else { return Ok(None) };
        let Some(key) = DirectorKey::load(folder)? else { return Ok(None) };
        Identity::new(&key, &chain_pem).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::pki::Authority;

    fn issue(cluster: ClusterId) -> (DirectorKey, String) {
        let now = SystemTime::now();
        let authority = Authority::create(cluster, now).unwrap();
        let key = DirectorKey::generate().unwrap();
        let chain = authority.sign(&key.request().unwrap(), DirectorId(3), now).unwrap().chain_pem;
        (key, chain)
    }

    #[test]
    fn an_identity_survives_its_folder_and_the_key_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pki");
        assert!(Identity::load(&path).unwrap().is_none());
        let (key, chain) = issue(ClusterId::random());
        let identity = Identity::new(&key, &chain).unwrap();
        identity.save(&path).unwrap();
        identity.save(&path).unwrap();
        let mode = std::fs::metadata(path.join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let back = Identity::load(&path).unwrap().unwrap();
        assert_eq!(back.director(), identity.director());
        assert_eq!(back.fingerprint(), identity.fingerprint());
        assert_eq!(back.derived_secret("a"), identity.derived_secret("a"));
        assert_ne!(back.derived_secret("a"), identity.derived_secret("b"));

        let open = std::fs::Permissions::from_mode(0o640);
        std::fs::set_permissions(path.join(KEY_FILE), open).unwrap();
        let error = Identity::load(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_foreign_key_or_a_chain_without_its_authority_is_refused() {
        let (key, chain) = issue(ClusterId::random());
        let other = DirectorKey::generate().unwrap();
        assert!(matches!(Identity::new(&other, &chain), Err(PkiError::KeyMismatch)));
        let end = chain.find("-----END CERTIFICATE-----").unwrap();
        let error = Identity::new(&key, &chain[..end + 26]).unwrap_err().to_string();
        assert!(error.contains("instead of two"), "{error}");
    }

    #[test]
    fn a_chain_with_another_authority_does_not_verify() {
        let cluster = ClusterId::random();
        let (key, chain) = issue(cluster);
        let other = Authority::create(cluster, SystemTime::now()).unwrap();
        let end = chain.find("-----END CERTIFICATE-----").unwrap();
        let mixed = format!("{}{}", &chain[..end + 26], other.certificate_pem());
        let identity = Identity::new(&key, &mixed).unwrap();
        assert!(identity.verify(SystemTime::now()).is_err());
    }
}
