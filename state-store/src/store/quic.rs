//! The real network: [`crate::peer`] behind the [`Transport`] trait.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream;
use holdfast_schema::cluster::DirectorId;

use super::error::StoreError;
use crate::codec;
use crate::codec::disk::Identity;
use crate::codec::wire::SnapshotHeader;
use crate::liveness::Judgement;
use crate::peer::{
    self, Inbound, Lane, NetMetrics, Network, NetworkConfig, PeerInfo, PeerLiveness, SnapshotReader,
};
use crate::pki::{self, DirectorKey, JoinToken};
use crate::transport::{Connector, Receiver, Transport};

/// Bytes of one chunk of a snapshot.
const CHUNK: usize = 256 << 10;

/// Makes QUIC endpoints.
pub struct Quic;

impl Connector for Quic {
    fn bind(
        &self,
        listen: SocketAddr,
        identity: &Identity,
        receiver: Arc<dyn Receiver>,
    ) -> Result<Arc<dyn Transport>, StoreError> {
        let failed = |cause: String| StoreError::Network { listen, cause };
        let key = DirectorKey::from_pem(&identity.key_pem).map_err(|e| failed(e.to_string()))?;
        let identity =
            pki::Identity::new(&key, &identity.chain_pem).map_err(|e| failed(e.to_string()))?;
        let network =
            Network::bind(NetworkConfig::new(listen, identity), Arc::new(Adapter(receiver)))
                .map_err(|e| failed(e.to_string()))?;
        Ok(Arc::new(network))
    }

    fn ask_to_join(
        &self,
        token: JoinToken,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(async move { peer::join(&token, body, deadline).await.map_err(|e| e.to_string()) })
    }
}

impl Transport for Network {
    fn send(&self, to: DirectorId, lane: Lane, message: Bytes) {
        Network::send(self, to, lane, message);
    }

    fn crowded(&self, to: DirectorId, lane: Lane) -> bool {
        Network::crowded(self, to, lane)
    }

    fn request(
        &self,
        to: DirectorId,
        lane: Lane,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        let network = self.clone();
        Box::pin(async move {
            network.request(to, lane, body, deadline).await.map_err(|e| e.to_string())
        })
    }

    fn send_snapshot(
        &self,
        to: DirectorId,
        header: Bytes,
        image: Bytes,
    ) -> BoxFuture<'static, Result<(), String>> {
        let network = self.clone();
        let chunks = stream::unfold(image, |mut rest| async move {
            let chunk = rest.split_to(rest.len().min(CHUNK));
            (!chunk.is_empty()).then_some((Ok(chunk), rest))
        });
        Box::pin(async move {
            network.send_snapshot(to, header, chunks).await.map_err(|e| e.to_string())
        })
    }

    fn set_members(&self, members: &[PeerInfo]) {
        Network::set_members(self, members);
    }

    fn set_numbers_given(&self, below: DirectorId) {
        Network::set_numbers_given(self, below);
    }

    fn set_incarnation(&self, incarnation: u64) {
        Network::set_incarnation(self, incarnation);
    }

    fn liveness(&self) -> Vec<PeerLiveness> {
        Network::liveness(self)
    }

    fn judge(&self) -> Vec<Judgement> {
        Network::judge(self)
    }

    fn metrics(&self) -> Option<Arc<NetMetrics>> {
        Some(Network::metrics(self))
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let network = self.clone();
        Box::pin(async move { network.shutdown().await })
    }
}

/// Hands what arrives to the store.
struct Adapter(Arc<dyn Receiver>);

impl Inbound for Adapter {
    fn message(&self, from: DirectorId, _lane: Lane, message: Bytes) {
        self.0.message(from, message);
    }

    fn request(&self, from: DirectorId, request: Bytes) -> BoxFuture<'static, Bytes> {
        self.0.request(from, request)
    }

    fn snapshot(
        &self,
        from: DirectorId,
        header: Bytes,
        mut reader: SnapshotReader,
    ) -> BoxFuture<'static, Result<(), String>> {
        let receiver = self.0.clone();
        Box::pin(async move {
            let told: SnapshotHeader = codec::decode(&header).map_err(|e| e.to_string())?;
            let length = usize::try_from(told.length).unwrap_or(usize::MAX);
            if length > codec::MAX_BODY {
                return Err(format!("a snapshot of {length} bytes is too large"));
            }
            // Grows with what really comes, not with what the header claims.
            let mut image = BytesMut::new();
            while let Some(chunk) = reader.next().await.map_err(|e| e.to_string())? {
                if image.len() + chunk.len() > length {
                    return Err("more chunks than the header announced".to_owned());
                }
                image.extend_from_slice(&chunk);
            }
            receiver.snapshot(from, header, image.freeze())
        })
    }

    fn join(&self, _from: SocketAddr, request: Bytes) -> BoxFuture<'static, Bytes> {
        self.0.join(request)
    }

    fn removed(&self, by: DirectorId) {
        self.0.removed(by);
    }

    fn heartbeat(&self, _from: DirectorId, _incarnation: u64, _payload: Bytes) {
        // What heartbeats say of others is kept by the network itself.
    }
}
