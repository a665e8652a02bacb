//! Reason codes, and what they become in versions that do not have them.

use std::fmt;

use crate::packet::PacketType;

/// Declares [`ReasonCode`] from one table: value, name, name in the specification.
macro_rules! reason_codes {
    ($($value:literal $name:ident $title:literal;)*) => {
        /// A Reason Code (section 2.4).
        ///
        /// Values that carry several names, such as 0 (Success, Normal disconnection, Granted QoS 0), have one variant.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "the names of the specification")]
        pub enum ReasonCode {
            $($name = $value,)*
        }

        impl ReasonCode {
            /// All codes, in the order of their values.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The code with this value.
            #[must_use]
            pub const fn from_u8(value: u8) -> Option<Self> {
                match value {
                    $($value => Some(Self::$name),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for ReasonCode {
            /// The name in the specification.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$name => $title,)*
                })
            }
        }
    };
}

reason_codes! {
    0x00 Success "Success";
    0x01 GrantedQoS1 "Granted QoS 1";
    0x02 GrantedQoS2 "Granted QoS 2";
    0x04 DisconnectWithWill "Disconnect with Will Message";
    0x10 NoMatchingSubscribers "No matching subscribers";
    0x11 NoSubscriptionExisted "No subscription existed";
    0x18 ContinueAuthentication "Continue authentication";
    0x19 Reauthenticate "Re-authenticate";
    0x80 UnspecifiedError "Unspecified error";
    0x81 MalformedPacket "Malformed Packet";
    0x82 ProtocolError "Protocol Error";
    0x83 ImplementationSpecificError "Implementation specific error";
    0x84 UnsupportedProtocolVersion "Unsupported Protocol Version";
    0x85 ClientIdentifierNotValid "Client Identifier not valid";
    0x86 BadUserNameOrPassword "Bad User Name or Password";
    0x87 NotAuthorized "Not authorized";
    0x88 ServerUnavailable "Server unavailable";
    0x89 ServerBusy "Server busy";
    0x8A Banned "Banned";
    0x8B ServerShuttingDown "Server shutting down";
    0x8C BadAuthenticationMethod "Bad authentication method";
    0x8D KeepAliveTimeout "Keep Alive timeout";
    0x8E SessionTakenOver "Session taken over";
    0x8F TopicFilterInvalid "Topic Filter invalid";
    0x90 TopicNameInvalid "Topic Name invalid";
    0x91 PacketIdentifierInUse "Packet Identifier in use";
    0x92 PacketIdentifierNotFound "Packet Identifier not found";
    0x93 ReceiveMaximumExceeded "Receive Maximum exceeded";
    0x94 TopicAliasInvalid "Topic Alias invalid";
    0x95 PacketTooLarge "Packet too large";
    0x96 MessageRateTooHigh "Message rate too high";
    0x97 QuotaExceeded "Quota exceeded";
    0x98 AdministrativeAction "Administrative action";
    0x99 PayloadFormatInvalid "Payload format invalid";
    0x9A RetainNotSupported "Retain not supported";
    0x9B QoSNotSupported "QoS not supported";
    0x9C UseAnotherServer "Use another server";
    0x9D ServerMoved "Server moved";
    0x9E SharedSubscriptionsNotSupported "Shared Subscriptions not supported";
    0x9F ConnectionRateExceeded "Connection rate exceeded";
    0xA0 MaximumConnectTime "Maximum connect time";
    0xA1 SubscriptionIdentifiersNotSupported "Subscription Identifiers not supported";
    0xA2 WildcardSubscriptionsNotSupported "Wildcard Subscriptions not supported";
}

impl ReasonCode {
    /// The number on the wire.
    #[must_use]
    pub const fn value(self) -> u8 {
        self as u8
    }

    /// Whether it says that something failed.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.value() >= 0x80
    }

    /// Whether a packet of this type may carry it: Table 2-6, and the table in each packet's section.
    #[must_use]
    pub const fn is_allowed_in(self, packet: PacketType) -> bool {
        use PacketType as P;
        match packet {
            P::ConnAck => {
                matches!(self.value(), 0 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F)
            }
            P::PubAck | P::PubRec => {
                matches!(self.value(), 0 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
            }
            P::PubRel | P::PubComp => matches!(self, Self::Success | Self::PacketIdentifierNotFound),
            P::SubAck => {
                matches!(self.value(), 0..=2 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2)
            }
            P::UnsubAck => matches!(self.value(), 0 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91),
            P::Disconnect => matches!(
                self.value(),
                0 | 0x04 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B..=0x90 | 0x93..=0xA2
            ),
            P::Auth => matches!(self, Self::Success | Self::ContinueAuthentication | Self::Reauthenticate),
            P::Connect | P::Publish | P::Subscribe | P::Unsubscribe | P::PingReq | P::PingResp => false,
        }
    }

    /// Whether a client may send it in such a packet.
    #[must_use]
    pub const fn is_allowed_from_client(self, packet: PacketType) -> bool {
        use PacketType as P;
        match packet {
            // The column "Sent by" of the table in 3.14.2.1.
            P::Disconnect => matches!(self.value(), 0 | 0x04 | 0x80..=0x83 | 0x90 | 0x93..=0x99),
            P::Auth => matches!(self, Self::ContinueAuthentication | Self::Reauthenticate),
            P::ConnAck | P::SubAck | P::UnsubAck => false,
            _ => self.is_allowed_in(packet),
        }
    }

    /// Whether a server may send it in such a packet.
    ///
    /// A DISCONNECT with 0x00 (Normal disconnection) is let pass, although 3.14.2.1 gives it to clients only: it is
    /// what an empty DISCONNECT means, and there are servers that send one.
    #[must_use]
    pub const fn is_allowed_from_server(self, packet: PacketType) -> bool {
        match packet {
            PacketType::Disconnect => !matches!(self, Self::DisconnectWithWill) && self.is_allowed_in(packet),
            PacketType::Auth => matches!(self, Self::Success | Self::ContinueAuthentication),
            _ => self.is_allowed_in(packet),
        }
    }

    /// The return code of a 3.1 or 3.1.1 CONNACK, 0 to 5 (3.1.1: section 3.2.2.3).
    ///
    /// What may pass by itself becomes 3 (server unavailable), any other refusal 5 (not authorized), so that clients
    /// which retry after 3 do not retry in vain.
    #[must_use]
    pub const fn connack_v3(self) -> u8 {
        match self {
            Self::UnsupportedProtocolVersion => 1,
            Self::ClientIdentifierNotValid => 2,
            Self::ServerUnavailable
            | Self::ServerBusy
            | Self::ServerShuttingDown
            | Self::UseAnotherServer
            | Self::ServerMoved
            | Self::QuotaExceeded
            | Self::ConnectionRateExceeded
            | Self::MessageRateTooHigh
            | Self::MaximumConnectTime
            | Self::UnspecifiedError
            | Self::ImplementationSpecificError => 3,
            Self::BadUserNameOrPassword => 4,
            refusal if refusal.is_error() => 5,
            _ => 0,
        }
    }

    /// The reason for the return code of a 3.1 or 3.1.1 CONNACK; `None` for 6 and above, which are reserved.
    #[must_use]
    pub const fn from_connack_v3(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Success),
            1 => Some(Self::UnsupportedProtocolVersion),
            2 => Some(Self::ClientIdentifierNotValid),
            3 => Some(Self::ServerUnavailable),
            4 => Some(Self::BadUserNameOrPassword),
            5 => Some(Self::NotAuthorized),
            _ => None,
        }
    }

    /// The return code of a 3.1 or 3.1.1 SUBACK: the granted QoS or 0x80.
    #[must_use]
    pub const fn suback_v3(self) -> u8 {
        match self {
            Self::Success | Self::GrantedQoS1 | Self::GrantedQoS2 => self.value(),
            _ => 0x80,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_codes_are_each_others_inverse() {
        for value in 0..=u8::MAX {
            if let Some(reason) = ReasonCode::from_u8(value) {
                assert_eq!(reason.value(), value);
                assert_eq!(reason.is_error(), value >= 0x80);
                assert!(ReasonCode::ALL.contains(&reason));
            }
        }
        let known = (0..=u8::MAX).filter(|value| ReasonCode::from_u8(*value).is_some()).count();
        assert_eq!((known, ReasonCode::ALL.len()), (43, 43));
        assert!(ReasonCode::ALL.is_sorted());
    }

    #[test]
    fn names_are_those_of_the_specification() {
        assert_eq!(ReasonCode::Reauthenticate.to_string(), "Re-authenticate");
        assert_eq!(ReasonCode::QoSNotSupported.to_string(), "QoS not supported");
    }

    /// Table 2-6, turned round: each line is a value with the packets that may carry it.
    #[test]
    fn each_packet_has_its_codes() {
        use PacketType::*;
        const PUB: [PacketType; 2] = [PubAck, PubRec];
        const REL: [PacketType; 2] = [PubRel, PubComp];
        let acks = |more: &[PacketType]| [&PUB[..], more].concat();
        check(0x00, &acks(&[ConnAck, PubRel, PubComp, SubAck, UnsubAck, Disconnect, Auth]));
        check(0x01, &[SubAck]);
        check(0x02, &[SubAck]);
        check(0x04, &[Disconnect]);
        check(0x10, &PUB);
        check(0x11, &[UnsubAck]);
        check(0x18, &[Auth]);
        check(0x19, &[Auth]);
        check(0x80, &acks(&[ConnAck, SubAck, UnsubAck, Disconnect]));
        check(0x81, &[ConnAck, Disconnect]);
        check(0x82, &[ConnAck, Disconnect]);
        check(0x83, &acks(&[ConnAck, SubAck, UnsubAck, Disconnect]));
        check(0x84, &[ConnAck]);
        check(0x85, &[ConnAck]);
        check(0x86, &[ConnAck]);
        check(0x87, &acks(&[ConnAck, SubAck, UnsubAck, Disconnect]));
        check(0x88, &[ConnAck]);
        check(0x89, &[ConnAck, Disconnect]);
        check(0x8A, &[ConnAck]);
        check(0x8B, &[Disconnect]);
        check(0x8C, &[ConnAck, Disconnect]);
        check(0x8D, &[Disconnect]);
        check(0x8E, &[Disconnect]);
        check(0x8F, &[SubAck, UnsubAck, Disconnect]);
        check(0x90, &acks(&[ConnAck, Disconnect]));
        check(0x91, &acks(&[SubAck, UnsubAck]));
        check(0x92, &REL);
        check(0x93, &[Disconnect]);
        check(0x94, &[Disconnect]);
        check(0x95, &[ConnAck, Disconnect]);
        check(0x96, &[Disconnect]);
        check(0x97, &acks(&[ConnAck, SubAck, Disconnect]));
        check(0x98, &[Disconnect]);
        check(0x99, &acks(&[ConnAck, Disconnect]));
        check(0x9A, &[ConnAck, Disconnect]);
        check(0x9B, &[ConnAck, Disconnect]);
        check(0x9C, &[ConnAck, Disconnect]);
        check(0x9D, &[ConnAck, Disconnect]);
        check(0x9E, &[SubAck, Disconnect]);
        check(0x9F, &[ConnAck, Disconnect]);
        check(0xA0, &[Disconnect]);
        check(0xA1, &[SubAck, Disconnect]);
        check(0xA2, &[SubAck, Disconnect]);
    }

    #[test]
    fn sides_have_their_own_codes() {
        let disconnect = PacketType::Disconnect;
        let from_client: Vec<_> = values(|reason| reason.is_allowed_from_client(disconnect));
        let expected = [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];
        assert_eq!(from_client, expected);
        assert!(!ReasonCode::DisconnectWithWill.is_allowed_from_server(disconnect));
        assert!(ReasonCode::SessionTakenOver.is_allowed_from_server(disconnect));
        assert_eq!(values(|reason| reason.is_allowed_from_client(PacketType::Auth)), [0x18, 0x19]);
        assert_eq!(values(|reason| reason.is_allowed_from_server(PacketType::Auth)), [0x00, 0x18]);
        assert!(values(|reason| reason.is_allowed_from_client(PacketType::ConnAck)).is_empty());
    }

    #[test]
    fn return_codes_before_5_0() {
        for code in 0..=5 {
            let reason = ReasonCode::from_connack_v3(code).unwrap();
            assert_eq!(reason.connack_v3(), code);
        }
        assert_eq!(ReasonCode::from_connack_v3(6), None);
        for reason in ReasonCode::ALL {
            assert!(reason.connack_v3() <= 5);
            assert_eq!(reason.connack_v3() == 0, !reason.is_error(), "a refusal stays one: {reason}");
            assert_eq!(reason.suback_v3() == 0x80, !matches!(reason.value(), 0..=2));
        }
        assert_eq!(ReasonCode::ConnectionRateExceeded.connack_v3(), 3);
        assert_eq!(ReasonCode::Banned.connack_v3(), 5);
    }

    fn check(value: u8, packets: &[PacketType]) {
        let reason = ReasonCode::from_u8(value).unwrap();
        for packet in (1..=15).filter_map(PacketType::from_u8) {
            let expected = packets.contains(&packet);
            assert_eq!(reason.is_allowed_in(packet), expected, "{reason} in {packet}");
        }
    }

    fn values(is_wanted: impl Fn(&ReasonCode) -> bool) -> Vec<u8> {
        ReasonCode::ALL.iter().copied().filter(is_wanted).map(ReasonCode::value).collect()
    }
}
