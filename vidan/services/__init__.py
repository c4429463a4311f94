"""What the command line, the HTTP interface and programs ask: functions over a connection.

The caller owns the transaction: services execute statements and never commit. They know
neither Kafka nor torch.
"""
