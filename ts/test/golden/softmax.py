from golden import leaf, save

save(__file__, [(str(shape), {"x": leaf(*shape)}, {}, lambda x: x.softmax(-1)) for shape in [(5, 7), (2, 3, 19)]])
