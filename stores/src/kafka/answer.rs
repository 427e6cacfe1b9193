//! The meaning of an answer of Kafka, or of its client library. The only place that decides.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::contract::StoreError;

/// The reaction to a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Passes by itself: back off and try again.
    Retry,
    /// An operator has to change something; the text says what.
    Operator(&'static str),
    /// A batch that is too large: its records are sent one by one to find the guilty.
    TooLarge,
    /// A record that Kafka will never take: found by sending one by one.
    Refused,
    /// Another producer has taken over.
    Fenced,
    /// The producer is of no use any longer: go on with a new one.
    Restart,
}

const SASL: &str = "check `sasl`, `username` and `password`";
const TOPIC: &str = "create the topic, or set another `topic`";

/// The table.
pub(super) fn verdict(code: Code) -> Verdict {
    match code {
        Code::Authentication | Code::SaslAuthenticationFailed => Verdict::Operator(SASL),
        Code::UnsupportedSASLMechanism | Code::IllegalSASLState => {
            Verdict::Operator("set `sasl` to a mechanism that the listener of `brokers` has enabled")
        }
        Code::SSL => Verdict::Operator("check `tls`, `ca_file`, `cert_file` and `key_file`"),
        Code::SecurityDisabled => Verdict::Operator("enable an authorizer, or set `sasl` to none"),
        Code::TopicAuthorizationFailed => {
            Verdict::Operator("allow the user Write and Describe on the topic (and Create, where topics are created)")
        }
        Code::TransactionalIdAuthorizationFailed => {
            Verdict::Operator("allow the user Write and Describe on transactional ids that begin with `weir.`")
        }
        Code::ClusterAuthorizationFailed => Verdict::Operator("allow the user IdempotentWrite on the cluster"),
        Code::GroupAuthorizationFailed => Verdict::Operator("allow the user Read on the group `weir-cursors`"),
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => Verdict::Operator(TOPIC),
        Code::InvalidTopic => Verdict::Operator("set `topic` and `cursor_topic` to names that Kafka takes"),
        Code::InvalidReplicationFactor | Code::InvalidPartitions | Code::InvalidConfig | Code::PolicyViolation => {
            Verdict::Operator("create the `cursor_topic` by hand: one partition, cleanup.policy=compact")
        }
        Code::InvalidTransactionTimeout => {
            Verdict::Operator("set `transaction_timeout_ms` to at most the brokers' transaction.max.timeout.ms")
        }
        Code::InvalidRequiredAcks => Verdict::Operator("use brokers that take acks=all"),
        Code::UnsupportedCompressionType => Verdict::Operator("set another `compression`"),
        Code::UnsupportedVersion | Code::UnsupportedFeature | Code::UnsupportedForMessageFormat => {
            Verdict::Operator("the brokers are too old: use Kafka 2.5 or later, or set another `compression`")
        }
        Code::InvalidArgument | Code::NotImplemented | Code::NotConfigured => {
            Verdict::Operator("this program's Kafka client cannot do what the settings ask for")
        }
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => Verdict::TooLarge,
        // A topic may bound the distance of timestamps; a record may be invalid for a compacted
        // topic.
        Code::InvalidRecord | Code::InvalidTimestamp => Verdict::Refused,
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch | Code::TransactionCoordinatorFenced => {
            Verdict::Fenced
        }
        Code::Fatal
        | Code::GaplessGuarantee
        | Code::Inconsistent
        | Code::State
        | Code::OutOfOrderSequenceNumber
        | Code::UnknownProducerId
        | Code::InvalidProducerIdMapping
        | Code::InvalidTransactionalState => Verdict::Restart,
        // Transport, time-outs, elections, quotas, disks of brokers, and all that is not known.
        _ => Verdict::Retry,
    }
}

/// The code of an error; `Fail` for one without a code.
pub(super) fn code_of(error: &KafkaError) -> Code {
    match error {
        KafkaError::Transaction(error) => error.code(),
        KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) => Code::InvalidArgument,
        other => other.rdkafka_error_code().unwrap_or(Code::Fail),
    }
}

/// The answer of the store to a failed call that `doing` describes.
pub(super) fn answer(doing: &str, error: &KafkaError) -> StoreError {
    answer_to(doing, code_of(error), &error.to_string())
}

/// As [`answer`], from a code and what is known of the failure.
pub(super) fn answer_to(doing: &str, code: Code, detail: &str) -> StoreError {
    let reason = format!("cannot {doing}: {detail}");
    match verdict(code) {
        Verdict::Operator(hint) => StoreError::NeedsOperator(format!("{reason}; {hint}")),
        Verdict::TooLarge => StoreError::TooLarge(reason),
        Verdict::Refused => StoreError::Refused(reason),
        Verdict::Retry | Verdict::Restart => StoreError::busy(reason),
        Verdict::Fenced => StoreError::busy(format!("{reason}; another process holds the log")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_its_verdict() {
        for (code, wanted) in [
            (Code::BrokerTransportFailure, Verdict::Retry),
            (Code::AllBrokersDown, Verdict::Retry),
            (Code::Resolve, Verdict::Retry),
            (Code::MessageTimedOut, Verdict::Retry),
            (Code::NotEnoughReplicas, Verdict::Retry),
            (Code::NotEnoughReplicasAfterAppend, Verdict::Retry),
            (Code::NotLeaderForPartition, Verdict::Retry),
            (Code::KafkaStorageError, Verdict::Retry),
            (Code::ThrottlingQuotaExceeded, Verdict::Retry),
            (Code::ConcurrentTransactions, Verdict::Retry),
            (Code::CoordinatorNotAvailable, Verdict::Retry),
            (Code::PurgeQueue, Verdict::Retry),
            (Code::Unknown, Verdict::Retry),
            (Code::MessageSizeTooLarge, Verdict::TooLarge),
            (Code::MessageBatchTooLarge, Verdict::TooLarge),
            (Code::InvalidTimestamp, Verdict::Refused),
            (Code::InvalidRecord, Verdict::Refused),
            (Code::ProducerFenced, Verdict::Fenced),
            (Code::Fenced, Verdict::Fenced),
            (Code::InvalidProducerEpoch, Verdict::Fenced),
            (Code::Fatal, Verdict::Restart),
            (Code::OutOfOrderSequenceNumber, Verdict::Restart),
            (Code::GaplessGuarantee, Verdict::Restart),
            (Code::UnknownTopic, Verdict::Operator(TOPIC)),
            (Code::Authentication, Verdict::Operator(SASL)),
        ] {
            assert_eq!(verdict(code), wanted, "{code:?}");
        }
    }

    #[test]
    fn what_an_operator_has_to_change_is_named() {
        for (code, key) in [
            (Code::SaslAuthenticationFailed, "`password`"),
            (Code::UnsupportedSASLMechanism, "`sasl`"),
            (Code::SSL, "`ca_file`"),
            (Code::TopicAuthorizationFailed, "Write"),
            (Code::TransactionalIdAuthorizationFailed, "`weir.`"),
            (Code::UnknownTopicOrPartition, "`topic`"),
            (Code::InvalidTransactionTimeout, "`transaction_timeout_ms`"),
            (Code::UnsupportedCompressionType, "`compression`"),
            (Code::InvalidReplicationFactor, "`cursor_topic`"),
        ] {
            let StoreError::NeedsOperator(reason) = answer_to("write to Kafka", code, "x") else { panic!("{code:?}") };
            assert!(reason.contains(key), "{code:?}: {reason}");
        }
    }
}
