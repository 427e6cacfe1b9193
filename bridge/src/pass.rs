//! The life of a connection of both brokers.

use crate::end::End;
use crate::inbound::Arrived;
use crate::pulse::Pulse;
use crate::relay::{Relay, Stage, Step};
use crate::side::Side;

/// Bytes that wait for one broker before the other one is not read.
const WAITING_BYTES: usize = 256 << 10;

/// Passes packets on until one side ends. `announce` gets `None` when the subscriptions are
/// answered, and then the concern about them, if there is one.
pub(crate) async fn run(
    relay: &mut Relay<'_>,
    here: &mut Side,
    there: &mut Side,
    mut pulse: Pulse,
    announce: &mut (dyn FnMut(Option<String>) + Send),
) -> End {
    relay.begin(&mut here.outbound.bytes, &mut there.outbound.bytes);
    let mut is_announced = false;
    loop {
        // Packets may have come with the CONNACKs.
        let stages = relay.stages;
        let (waits_here, waits_there) = match (handle_here(relay, here, there), handle_there(relay, here, there)) {
            (Err(end), _) | (_, Err(end)) => return end,
            (Ok(waits_here), Ok(waits_there)) => (waits_here, waits_there),
        };
        if !is_announced && relay.stages == (Stage::Done, Stage::Done) {
            is_announced = true;
            announce(None);
            if let Some(concern) = relay.concern.take() {
                announce(Some(concern));
            }
        }
        if relay.stages != stages {
            // A packet may have waited for it.
            continue;
        }
        // A broker that cannot send does not read: when neither does, one has to be read.
        let (behind_here, behind_there) = (here.outbound.len() >= WAITING_BYTES, there.outbound.len() >= WAITING_BYTES);
        let reads_here = !waits_here && (!behind_there || behind_here);
        let reads_there = !waits_there && !behind_here;
        let awaited = relay.awaits_there();
        let Side { reader: from_here, writer: to_here, inbound: in_here, outbound: out_here, .. } = &mut *here;
        let Side { reader: from_there, writer: to_there, inbound: in_there, outbound: out_there, .. } = &mut *there;
        tokio::select! {
            read = in_here.read(from_here), if reads_here => match read {
                Ok(0) => return End::LeftHere("without a reason".into()),
                Ok(_) => {}
                Err(error) => return End::LeftHere(error.to_string()),
            },
            read = in_there.read(from_there), if reads_there => match read {
                Ok(0) => return End::Closed,
                Ok(_) => pulse.heard(),
                Err(error) => return End::Broken(error),
            },
            written = out_here.write(to_here), if !out_here.is_done() => {
                if let Err(error) = written {
                    return End::LeftHere(error.to_string());
                }
            }
            written = out_there.write(to_there), if !out_there.is_done() => match written {
                Ok(()) => pulse.sent(),
                Err(error) => return End::Broken(error),
            },
            () = tokio::time::sleep_until(pulse.due(awaited)) => match pulse.beat(awaited, reads_there) {
                Ok(true) => mqtt_client::pingreq(&mut out_there.bytes),
                Ok(false) => {}
                Err(end) => return end,
            },
        }
    }
}

/// Handles the packets of this broker that are whole. True when the next one has to wait.
fn handle_here(relay: &mut Relay<'_>, here: &mut Side, there: &mut Side) -> Result<bool, End> {
    loop {
        let next = here.inbound.next().map_err(|error| End::LeftHere(error.to_string()))?;
        let Some(Arrived::Packet(packet, bytes)) = next else { return Ok(false) };
        match relay.take_here(&packet, &mut here.outbound.bytes, &mut there.outbound.bytes)? {
            Step::Done => here.inbound.consume(bytes),
            Step::Waits => return Ok(true),
        }
    }
}

/// Handles the packets of the other broker that are whole. True when the next one has to wait.
fn handle_there(relay: &mut Relay<'_>, here: &mut Side, there: &mut Side) -> Result<bool, End> {
    loop {
        match there.inbound.next()? {
            None => return Ok(false),
            Some(Arrived::Oversized { qos, packet_id }) => {
                relay.refuse_oversized(qos, packet_id, &mut there.outbound.bytes);
            }
            Some(Arrived::Packet(packet, bytes)) => {
                match relay.take_there(&packet, &mut here.outbound.bytes, &mut there.outbound.bytes)? {
                    Step::Done => there.inbound.consume(bytes),
                    Step::Waits => return Ok(true),
                }
            }
        }
    }
}
