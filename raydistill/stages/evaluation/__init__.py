"""What a set is worth: metrics, a teacher and its labels, students."""
