//! Clients that others wrote, used the way their users do.

mod paho;
mod rumqttc_v3;
mod rumqttc_v5;
