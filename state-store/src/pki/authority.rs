//! The cluster's certificate authority.

use std::time::{Duration, SystemTime};

use holdfast_schema::cluster::DirectorId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};

use super::{
    ClusterId, Fingerprint, PkiError, director_name, inspect, make_error, parse_error, sha256,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Certificates are backdated by this, for machines whose clock is behind.
const BACKDATED: Duration = DAY;

/// How long a director's certificate is valid; it is renewed at a third.
pub(super) const VALID: Duration = Duration::from_secs(90 * DAY.as_secs());

/// How long the authority itself is valid.
const AUTHORITY_VALID: Duration = Duration::from_secs(20 * 365 * DAY.as_secs());

/// Who signs the directors' certificates. Its key lives with the control group only.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    fingerprint: Fingerprint,
    cluster: ClusterId,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key stays out of every log.
        f.debug_struct("Authority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// A certificate that was signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Issued {
    /// The director's certificate and the authority's, PEM, in this order.
    pub chain_pem: String,
    /// The key that was certified: to be pinned in the member list.
    pub key_fingerprint: Fingerprint,
}

fn serial() -> SerialNumber {
    // RFC 5280 section 4.1.2.2: positive, at most 20 bytes, unique; ours are random.
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn named(name: String) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// A signing request whose signature is right.
fn parse_request(request: &[u8]) -> Result<CertificateSigningRequestParams, PkiError> {
    CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
        .map_err(|e| parse_error("signing request", e))
}

impl Authority {
    /// Makes the authority of a new cluster.
    pub fn create(cluster: ClusterId, now: SystemTime) -> Result<Authority, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|e| make_error("the authority's key", e))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(format!("ca.{cluster}.holdfast"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + AUTHORITY_VALID).into();
        params.serial_number = Some(serial());
        let certificate =
            params.self_signed(&key).map_err(|e| make_error("the authority's certificate", e))?;
        let fingerprint = sha256(&key.subject_public_key_info());
        let certificate_pem = certificate.pem();
        Ok(Authority { issuer: Issuer::new(params, key), certificate_pem, fingerprint, cluster })
    }

    /// The authority from the PEM of its certificate and key.
    pub fn load(
        certificate_pem: &str,
        key_pem: &str,
        cluster: ClusterId,
    ) -> Result<Authority, PkiError> {
        let what = "the authority's certificate";
        let key = KeyPair::from_pem(key_pem).map_err(|e| parse_error("the authority's key", e))?;
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|e| parse_error(what, e))?;
        let facts = inspect(&certificate)?;
        if !facts.authority {
            return Err(parse_error(what, "it is not one of an authority"));
        }
        if facts.key_fingerprint != sha256(&key.subject_public_key_info()) {
            return Err(PkiError::KeyMismatch);
        }
        let issuer =
            Issuer::from_ca_cert_der(&certificate, key).map_err(|e| parse_error(what, e))?;
        Ok(Authority {
            issuer,
            certificate_pem: certificate_pem.to_owned(),
            fingerprint: facts.key_fingerprint,
            cluster,
        })
    }

    /// PEM of its certificate.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// PEM of its private key (PKCS #8).
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Its public key: what tokens carry.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The cluster it signs for.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The key that a signing request asks to have certified, and proves possession of.
    pub fn requested_key(request: &[u8]) -> Result<Fingerprint, PkiError> {
        Ok(sha256(&parse_request(request)?.public_key.subject_public_key_info()))
    }

    /// Certifies the key of a signing request (DER, RFC 2986) for `director`.
    ///
    /// The request proves that its sender has the private key. Nothing else in it counts: what the
    /// certificate says is decided here. Valid from a day before `now` to 90 days after.
    pub fn sign(
        &self,
        request: &[u8],
        director: DirectorId,
        now: SystemTime,
    ) -> Result<Issued, PkiError> {
        let what = "the director's certificate";
        let request = parse_request(request)?;
        let name = director_name(director, self.cluster);
        let mut params =
            CertificateParams::new(vec![name.clone()]).map_err(|e| make_error(what, e))?;
        params.distinguished_name = named(name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + VALID).into();
        params.serial_number = Some(serial());
        let certificate =
            params.signed_by(&request.public_key, &self.issuer).map_err(|e| make_error(what, e))?;
        Ok(Issued {
            chain_pem: format!("{}{}", certificate.pem(), self.certificate_pem),
            key_fingerprint: sha256(&request.public_key.subject_public_key_info()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{DirectorKey, Identity};

    #[test]
    fn a_director_gets_a_certificate_that_names_it() {
        let now = SystemTime::now();
        let cluster = ClusterId::random();
        let authority = Authority::create(cluster, now).unwrap();
        let key = DirectorKey::generate().unwrap();
        let issued = authority.sign(&key.request().unwrap(), DirectorId(7), now).unwrap();
        assert_eq!(issued.key_fingerprint, key.fingerprint());
        assert_eq!(Authority::requested_key(&key.request().unwrap()).unwrap(), key.fingerprint());
        let identity = Identity::new(&key, &issued.chain_pem).unwrap();
        assert_eq!((identity.director(), identity.cluster()), (DirectorId(7), cluster));
        assert_eq!(identity.fingerprint(), key.fingerprint());
        assert_eq!(identity.authority_fingerprint(), authority.fingerprint());
        identity.verify(now).unwrap();
    }

    #[test]
    fn an_authority_comes_back_from_its_pem_and_signs_for_the_same_chain() {
        let now = SystemTime::now();
        let cluster = ClusterId::random();
        let first = Authority::create(cluster, now).unwrap();
        let second = Authority::load(first.certificate_pem(), &first.key_pem(), cluster).unwrap();
        assert_eq!(second.fingerprint(), first.fingerprint());
        let key = DirectorKey::generate().unwrap();
        let issued = second.sign(&key.request().unwrap(), DirectorId(1), now).unwrap();
        Identity::new(&key, &issued.chain_pem).unwrap().verify(now).unwrap();

        let other = Authority::create(cluster, now).unwrap();
        let error = Authority::load(first.certificate_pem(), &other.key_pem(), cluster);
        assert!(matches!(error.unwrap_err(), PkiError::KeyMismatch));
    }

    #[test]
    fn a_request_with_a_broken_signature_is_refused() {
        let now = SystemTime::now();
        let authority = Authority::create(ClusterId::random(), now).unwrap();
        let mut request = DirectorKey::generate().unwrap().request().unwrap();
        *request.last_mut().unwrap() ^= 1;
        assert!(authority.sign(&request, DirectorId(1), now).is_err());
        assert!(Authority::requested_key(&request).is_err());
        assert!(authority.sign(b"nonsense", DirectorId(1), now).is_err());
    }

    #[test]
    fn certificates_are_backdated_a_day_and_last_ninety() {
        let now = SystemTime::now();
        let authority = Authority::create(ClusterId::random(), now).unwrap();
        let key = DirectorKey::generate().unwrap();
        let issued = authority.sign(&key.request().unwrap(), DirectorId(1), now).unwrap();
        let identity = Identity::new(&key, &issued.chain_pem).unwrap();
        identity.verify(now - Duration::from_secs(23 * 60 * 60)).unwrap();
        identity.verify(now + 89 * DAY).unwrap();
        assert!(identity.verify(now - 2 * DAY).is_err());
        let error = identity.verify(now + 91 * DAY).unwrap_err().to_string();
        assert!(error.contains("expired"), "{error}");
        assert!(!identity.renewal_due(now + 29 * DAY));
        assert!(identity.renewal_due(now + 31 * DAY));
    }
}
