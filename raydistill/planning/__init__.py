"""What a run will take, before it is begun: its work counted, the rates of machines, and what both come to."""
