//! Calls of any method, with encoded messages.

use bytes::{Buf, BufMut};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status, Streaming};

use crate::world::World;

/// Leaves messages encoded.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; from.remaining()];
        from.copy_to_slice(&mut message);
        Ok(Some(message))
    }
}

/// Opens a call with these values of `authorization`.
pub(super) async fn open(
    world: &World,
    path: &str,
    authorization: &[&str],
    message: Vec<u8>,
) -> Result<Streaming<Vec<u8>>, Status> {
    let mut client = tonic::client::Grpc::new(world.channel.clone());
    client.ready().await.unwrap();
    let mut request = Request::new(message);
    for value in authorization {
        request.metadata_mut().append("authorization", value.parse().unwrap());
    }
    let answer = client.server_streaming(request, path.parse().unwrap(), Raw).await;
    answer.map(tonic::Response::into_inner)
}

/// Returns the status of a call; of a stream, that of its opening.
pub(super) async fn call(world: &World, path: &str, authorization: &[&str], message: Vec<u8>) -> Status {
    match open(world, path, authorization, message).await {
        Ok(_) => Status::ok(""),
        Err(status) => status,
    }
}
