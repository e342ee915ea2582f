"""Interruption notices from outside the cluster: parsing (`eventbridge`), receiving (`sqs`), acting (`desk`)."""
