//! TLS and QUIC settings.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connection, ConnectionId, ConnectionIdGenerator, EndpointConfig, ServerConfig,
    TransportConfig, VarInt,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::tls13::OkmBlock;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::error::NetError;
use super::wire::{ALPN_JOIN, ALPN_PEER, Purpose};
use crate::pki::{ClusterId, Fingerprint, Identity, inspect};

/// Probes while nothing else is said. Heartbeats have their own clock; this finds dead connections.
const KEEP_ALIVE_CONTROL: Duration = Duration::from_millis(50);
const KEEP_ALIVE_OTHER: Duration = Duration::from_millis(250);
/// A connection without any sign of the other side ends after this. It says nothing about the peer.
const IDLE_CONTROL: Duration = Duration::from_millis(1_500);
const IDLE_OTHER: Duration = Duration::from_millis(3_000);
/// Directors are near each other; the default of 333 ms would cost a second for one lost packet.
const INITIAL_RTT: Duration = Duration::from_millis(30);

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The settings made from an identity.
pub(super) struct Tls {
    pub(super) server: ServerConfig,
    clients: [ClientConfig; 3],
}

impl Tls {
    pub(super) fn client(&self, purpose: Purpose) -> ClientConfig {
        self.clients[purpose as usize].clone()
    }

    pub(super) fn new(identity: &Identity) -> Result<Tls, NetError> {
        let unusable = |e: &dyn std::fmt::Display| NetError::Identity(e.to_string());
        let roots = Arc::new(identity.roots()?);

        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            // Joiners have none; whoever speaks `hf-peer/1` without one is turned away afterwards.
            .allow_unauthenticated()
            .build()
            .map_err(|e| unusable(&e))?;
        let mut server = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| unusable(&e))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(identity.chain(), identity.key())
            .map_err(|e| unusable(&e))?;
        server.alpn_protocols = vec![ALPN_PEER.to_vec(), ALPN_JOIN.to_vec()];
        // Every connection proves its certificate anew.
        server.send_tls13_tickets = 0;

        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|e| unusable(&e))?;
        let mut client = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| unusable(&e))?
            .with_webpki_verifier(verifier)
            .with_client_auth_cert(identity.chain(), identity.key())
            .map_err(|e| unusable(&e))?;
        client.alpn_protocols = vec![ALPN_PEER.to_vec()];
        client.resumption = rustls::client::Resumption::disabled();

        let server = QuicServerConfig::try_from(server).map_err(|e| unusable(&e))?;
        let mut server = ServerConfig::with_crypto(Arc::new(server));
        server.transport_config(Arc::new(acceptor())).migration(false).max_incoming(256);
        let client = QuicClientConfig::try_from(client).map_err(|e| unusable(&e))?;
        let client = Arc::new(client);
        let clients = [Purpose::Control, Purpose::Log, Purpose::Snapshot].map(|purpose| {
            let mut config = ClientConfig::new(client.clone());
            config.transport_config(Arc::new(dialer(purpose)));
            config
        });
        Ok(Tls { server, clients })
    }
}

fn idle(after: Duration) -> Option<quinn::IdleTimeout> {
    // Fails for more than 2^62 ms only.
    after.try_into().ok()
}

fn dialer(purpose: Purpose) -> TransportConfig {
    let mut config = TransportConfig::default();
    let (keep_alive, idle_after, window) = match purpose {
        // More than the receiver's window of one stream: the messages of a peer that does not read must
        // not use up what its heartbeats need, or a director that lives is declared down.
        Purpose::Control => (KEEP_ALIVE_CONTROL, IDLE_CONTROL, 16 << 20),
        Purpose::Log => (KEEP_ALIVE_OTHER, IDLE_OTHER, 16 << 20),
        Purpose::Snapshot => (KEEP_ALIVE_OTHER, IDLE_OTHER, 8 << 20),
    };
    config
        .keep_alive_interval(Some(keep_alive))
        .max_idle_timeout(idle(idle_after))
        .initial_rtt(INITIAL_RTT)
        .send_window(window)
        // The acceptor opens no streams.
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(4 << 20))
        .receive_window(VarInt::from_u32(32 << 20))
        .datagram_receive_buffer_size(None);
    config
}

fn acceptor() -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(idle(IDLE_OTHER))
        .initial_rtt(INITIAL_RTT)
        .max_concurrent_bidi_streams(VarInt::from_u32(1_024))
        .max_concurrent_uni_streams(VarInt::from_u32(64))
        .stream_receive_window(VarInt::from_u32(4 << 20))
        .receive_window(VarInt::from_u32(16 << 20))
        .send_window(16 << 20)
        .datagram_receive_buffer_size(None);
    config
}

/// Settings of the socket. The reset key comes from the director's own key, so that after a restart
/// it still can tell peers that their old connections are gone (RFC 9000 section 10.3) instead of
/// leaving them to their idle timeout.
pub(super) fn endpoint(identity: &Identity) -> EndpointConfig {
    let mut config =
        EndpointConfig::new(Arc::new(ResetKey(identity.derived_secret("stateless reset"))));
    config.cid_generator(|| Box::new(RandomIds));
    config
}

/// Connection ids of eight random bytes. The generator that quinn has by default signs them with a
/// key of its own start, and then ignores (instead of resetting) those of an earlier one.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&rand::random::<[u8; 8]>())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// HMAC-SHA256 by the TLS provider.
struct ResetKey([u8; 32]);

impl ResetKey {
    fn tag(&self, data: &[u8]) -> rustls::crypto::hmac::Tag {
        let suite = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
        let hkdf = suite.tls13().map(|suite| suite.hkdf_provider);
        // That suite is one of TLS 1.3, so there always is one.
        let Some(hkdf) = hkdf else { return rustls::crypto::hmac::Tag::new(&self.0) };
        hkdf.hmac_sign(&OkmBlock::new(&self.0), data)
    }
}

impl quinn::crypto::HmacKey for ResetKey {
    fn sign(&self, data: &[u8], out: &mut [u8]) {
        out.copy_from_slice(self.tag(data).as_ref());
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), quinn::crypto::CryptoError> {
        let tag = self.tag(data);
        // Constant time: every byte is looked at.
        let differ = tag.as_ref().iter().zip(signature).fold(0, |sum, (a, b)| sum | (a ^ b));
        let same = signature.len() == tag.as_ref().len() && differ == 0;
        if same { Ok(()) } else { Err(quinn::crypto::CryptoError) }
    }
}

/// The protocol that was agreed on.
pub(super) fn alpn(connection: &Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

/// The certificate that the other side showed.
pub(super) fn certificate(connection: &Connection) -> Option<CertificateDer<'static>> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.into_iter().next()
}

/// Settings of somebody who has a token and no certificate.
pub(super) fn joiner(cluster: ClusterId, authority: Fingerprint) -> Result<ClientConfig, TlsError> {
    let verifier = Arc::new(TokenVerifier { cluster, authority, provider: provider() });
    let mut client = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    client.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    client.resumption = rustls::client::Resumption::disabled();
    let client =
        QuicClientConfig::try_from(client).map_err(|e| TlsError::General(e.to_string()))?;
    let mut config = ClientConfig::new(Arc::new(client));
    config.transport_config(Arc::new(dialer(Purpose::Control)));
    Ok(config)
}

/// Accepts a director of one cluster, whichever: the chain must hold the authority whose key the
/// token names, and the certificate must be signed by it.
#[derive(Debug)]
struct TokenVerifier {
    cluster: ClusterId,
    authority: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for TokenVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let is_ours = |certificate: &&CertificateDer<'_>| {
            inspect(certificate)
                .is_ok_and(|facts| facts.authority && facts.key_fingerprint == self.authority)
        };
        let authority = intermediates.iter().find(is_ours).ok_or_else(|| {
            TlsError::General(
                "the token is for a cluster with another authority than this member's".to_owned(),
            )
        })?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone())?;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &roots,
            &[],
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        let facts = inspect(end_entity)
            .map_err(|_| TlsError::InvalidCertificate(CertificateError::BadEncoding))?;
        match facts.director {
            Some((_, cluster)) if cluster == self.cluster => Ok(ServerCertVerified::assertion()),
            _ => Err(TlsError::InvalidCertificate(CertificateError::NotValidForName)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        // QUIC has TLS 1.3 only (RFC 9001 section 4.2).
        Err(TlsError::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
