//! Releases packet ids that a session holds for a sender that no longer exists.
//!
//! The receiver of a QoS 2 message holds its packet id until PUBREL. When the session that sent it
//! is lost, the next one begins with packet ids that the receiver may hold: it would take a new
//! message for one that was sent again. PUBREL for each packet id ends that. A receiver answers it
//! with PUBCOMP whether it holds the packet id or not.

use mqtt_client::{Ack, Version};

/// PUBRELs that wait for their PUBCOMP, at most.
const AT_ONCE: u32 = 256;

/// The release of every packet id at one side.
#[derive(Debug)]
pub(crate) struct Release {
    next: Option<u16>,
    awaited: u32,
}

impl Release {
    pub(crate) fn new() -> Self {
        Self { next: Some(1), awaited: 0 }
    }

    /// Writes as many PUBRELs as may be sent now.
    pub(crate) fn fill(&mut self, version: Version, out: &mut Vec<u8>) {
        while self.awaited < AT_ONCE
            && let Some(packet_id) = self.next
        {
            mqtt_client::ack(out, version, Ack::Pubrel, packet_id, 0);
            self.next = packet_id.checked_add(1);
            self.awaited += 1;
        }
    }

    /// Counts a PUBCOMP. True when all have come.
    pub(crate) fn completed(&mut self) -> bool {
        self.awaited = self.awaited.saturating_sub(1);
        self.awaited == 0 && self.next.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_id_is_released_once_and_few_at_a_time() {
        let mut release = Release::new();
        let mut out = Vec::new();
        release.fill(Version::V5, &mut out);
        assert_eq!(out.len(), 4 * AT_ONCE as usize);
        let mut answered = 0;
        while !release.completed() {
            answered += 1;
            release.fill(Version::V5, &mut out);
        }
        let ids: Vec<u16> = out.chunks(4).map(|packet| u16::from_be_bytes([packet[2], packet[3]])).collect();
        assert_eq!((ids.len(), answered), (65_535, 65_534));
        assert!(ids.iter().zip(1..=u16::MAX).all(|(id, wanted)| *id == wanted));
        assert!(out.chunks(4).all(|packet| packet[..2] == [0x62, 2]));
    }
}
