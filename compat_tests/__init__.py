"""Real Kafka clients, as processes, against a broker that is a process: everything here is a black box."""
