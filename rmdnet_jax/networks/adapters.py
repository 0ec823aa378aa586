def adapt(encoder): return encoder
